//! The word that a misspelt word most likely means.
//!
//! Pure. Invariant: a word that differs in more than two letters has no suggestion.

/// The most letters in which a misspelt word differs.
const MAX_DISTANCE: usize = 2;

/// The closest of the words, if it is close enough.
pub(crate) fn closest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A long word is close to none, and costs time.
    if word.len() > 32 {
        return None;
    }
    let distances = words.into_iter().map(|other| (strsim::osa_distance(word, other), other));
    let (distance, closest) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= MAX_DISTANCE && 2 * distance < word.chars().count()).then_some(closest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_has_the_closest_word() {
        let words = ["start", "stop", "restart", "reload", "status", "check"];
        for (word, expected) in [
            ("relaod", Some("reload")),
            ("statsu", Some("status")),
            ("strat", Some("start")),
            ("chek", Some("check")),
            ("smtp", None),
            ("http", None),
            ("25", None),
            ("", None),
        ] {
            assert_eq!(closest(word, words), expected, "{word}");
        }
        assert_eq!(closest(&"x".repeat(100_000), words), None);
    }
}
