//! Times as a user types them: a number of seconds, or a number with a unit.
//!
//! Pure. Invariant: a number without a unit is a number of seconds, as in the classic.

/// The units, with their seconds.
const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)];

/// Parses a time to seconds; `None` for any other text. A time that is too large becomes the
/// largest.
pub fn seconds(text: &str) -> Option<u64> {
    let unit = UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(*unit)?, *scale)));
    let (digits, scale) = unit.unwrap_or((text, 1));
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX).saturating_mul(scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_of_seconds_or_has_a_unit() {
        for (text, expected) in
            [("0", 0), ("5", 5), ("5s", 5), ("30m", 1_800), ("2h", 7_200), ("1d", 86_400)]
        {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        assert_eq!(seconds("99999999999999999999d"), Some(u64::MAX));
        for text in ["", "s", "5M", "5ms", "-5", "+5", "5 s", "1h30m", "1.5h", "x"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
