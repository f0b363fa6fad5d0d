//! Parsers of option values, whose errors state the expected format.

use std::time::Duration;

const SECONDS_MAX: f64 = 86_400.0;

/// A number of seconds, such as `5` or `0.5`.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=SECONDS_MAX).contains(number));
    number
        .and_then(|number| Duration::try_from_secs_f64(number).ok())
        .ok_or_else(|| format!("expected a number of seconds, such as 5 or 0.5, at most {SECONDS_MAX}"))
}

/// A whole number of items.
pub fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a whole number, such as 10".to_owned())
}

/// A partition number.
pub fn partition(text: &str) -> Result<i32, String> {
    let number = text.parse().ok().filter(|number| *number >= 0);
    number.ok_or_else(|| "expected the number of a partition, such as 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_was_expected() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["abc", "-1", "NaN", "inf", "1e9", ""] {
            assert!(seconds(wrong).is_err_and(|error| error.contains("number of seconds")), "{wrong}");
        }
        assert_eq!(count("10"), Ok(10));
        assert!(count("x").is_err_and(|error| error.contains("whole number")));
        assert_eq!(partition("3"), Ok(3));
        assert!(partition("-1").is_err());
    }
}
