//! Names of instances and servers, as given by `--name` and `name=`.
//!
//! Pure. Invariant: no accepted name reads as a number, as `G.N`, as an option or as several words
//! of a control command.

/// Longest name in bytes.
const MAX_LENGTH: usize = 63;

/// The rule for names, for errors.
pub(crate) const EXPECTED: &str = "expected a name of letters, digits, '.', '_' and '-': at most \
     63, at least one letter, none of '.', '_', '-' first";

/// Whether a text is a valid name.
pub fn is_valid(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    text.len() <= MAX_LENGTH
        && text.bytes().all(is_allowed)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().any(|b| b.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_number_no_option_and_one_word() {
        for name in ["smtp", "mx1", "1a", "a.b-c_d", "25x", &"a".repeat(63)] {
            assert!(is_valid(name), "{name}");
        }
        let long = "a".repeat(64);
        for text in
            ["", "1", "1.2", "127.0.0.1", "-x", ".a", "a b", "a,b", "a;b", "a\n", "ä", "a:1", &long]
        {
            assert!(!is_valid(text), "{text}");
        }
    }
}
