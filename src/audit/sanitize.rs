//! Replaces values that Postgres cannot hold in `text` and `jsonb`.
//!
//! A NUL character becomes U+FFFD. (Half of a surrogate pair is refused earlier as invalid JSON.) A number that `jsonb`
//! would reject, or that would take far more space than its text (`1e131072` has 131,073 digits there), becomes a
//! string. A smaller number with an exponent stays, but `jsonb` writes it differently (`1e2` as `100`), which matters
//! because rules see how a number is written.

use std::borrow::Cow;

/// Largest absolute exponent of ten of a number that is kept; every double has a smaller one.
const MAX_EXPONENT: u32 = 400;
/// Longest number that is kept, in bytes.
const MAX_NUMBER_BYTES: usize = 1_000;

/// Replaces NUL characters. Returns whether there were any.
pub fn text(text: &mut Cow<'_, str>) -> bool {
    if !text.as_bytes().contains(&0) {
        return false;
    }
    *text = Cow::Owned(text.replace('\0', "\u{FFFD}"));
    true
}

/// Cuts a text to at most `limit` bytes. Returns whether it was longer.
pub fn clip(text: &mut Cow<'_, str>, limit: usize) -> bool {
    if text.len() <= limit {
        return false;
    }
    let end = (0..=limit).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    *text = Cow::Owned(text.get(..end).unwrap_or_default().to_owned());
    true
}

/// Replaces what `jsonb` cannot hold in valid JSON. Returns whether anything was replaced, or `jsonb` will write a
/// number differently.
pub fn json(json: &mut Cow<'_, str>) -> bool {
    let mut amended: Option<String> = None;
    let (mut kept, mut at) = (0, 0);
    let mut reworded = false;
    let bytes = json.as_bytes();
    while let Some(byte) = bytes.get(at) {
        let (length, instead) = match byte {
            b'"' => {
                at += 1;
                while let Some(byte) = bytes.get(at) {
                    let (length, instead) = match byte {
                        b'"' => break,
                        b'\\' => escape(bytes.get(at..).unwrap_or_default()),
                        _ => (1, false),
                    };
                    if instead {
                        let out = amended.get_or_insert_default();
                        out.push_str(json.get(kept..at).unwrap_or_default());
                        out.push_str("\\ufffd");
                        kept = at + length;
                    }
                    at += length;
                }
                (1, false)
            }
            b'-' | b'0'..=b'9' => {
                let number = Number::read(bytes.get(at..).unwrap_or_default());
                reworded |= number.is_reworded;
                (number.length, number.is_too_large)
            }
            _ => (1, false),
        };
        if instead {
            let out = amended.get_or_insert_default();
            out.push_str(json.get(kept..at).unwrap_or_default());
            out.push('"');
            out.push_str(json.get(at..at + length).unwrap_or_default());
            out.push('"');
            kept = at + length;
        }
        at += length;
    }
    let Some(mut amended) = amended else { return reworded };
    amended.push_str(json.get(kept..).unwrap_or_default());
    *json = Cow::Owned(amended);
    true
}

/// Returns the number of bytes of an escape to skip, and whether it must be replaced.
fn escape(from: &[u8]) -> (usize, bool) {
    if from.starts_with(b"\\u0000") { (6, true) } else { (2, false) }
}

struct Number {
    length: usize,
    /// Whether the number must become a string.
    is_too_large: bool,
    is_reworded: bool,
}

impl Number {
    fn read(from: &[u8]) -> Self {
        let part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = from.iter().take_while(part).count();
        let digits = from.get(..length).unwrap_or_default();
        // Only a long number, or one with an exponent, can be too large.
        let exponent = digits.iter().position(|byte| matches!(byte, b'e' | b'E'));
        let too_large = exponent.is_some_and(|at| {
            let digits = digits.get(at + 1..).unwrap_or_default();
            let digits = digits.strip_prefix(b"-").or(digits.strip_prefix(b"+")).unwrap_or(digits);
            let exponent = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok());
            exponent.is_none_or(|exponent| exponent > MAX_EXPONENT)
        });
        let is_minus_zero =
            digits.first() == Some(&b'-') && digits.iter().all(|byte| matches!(byte, b'-' | b'0' | b'.'));
        Self {
            length: length.max(1),
            is_too_large: too_large || length > MAX_NUMBER_BYTES,
            is_reworded: exponent.is_some() || is_minus_zero,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amended(given: &str) -> Option<String> {
        let mut text = Cow::Borrowed(given);
        json(&mut text).then(|| text.into_owned())
    }

    #[test]
    fn what_jsonb_writes_differently_is_told() {
        for given in ["[1e308,-0.5E-308]", "-0", "-0.0", r#"{"a":1E+2}"#] {
            assert_eq!(amended(given).as_deref(), Some(given));
        }
    }

    #[test]
    fn what_jsonb_refuses_is_written_differently() {
        let long = "9".repeat(1_001);
        let cases = [
            (r#"{"a":"x\u0000y"}"#, r#"{"a":"x\ufffdy"}"#),
            (r#"{"\u0000":1}"#, r#"{"\ufffd":1}"#),
            (r#"["\u0000\\\u0000","\ud83d\ude00"]"#, r#"["\ufffd\\\ufffd","\ud83d\ude00"]"#),
            (r#"{"n":1e131072,"m":-1E+401,"o":1e-500}"#, r#"{"n":"1e131072","m":"-1E+401","o":"1e-500"}"#),
            (&format!("[{long}]"), &format!("[\"{long}\"]")),
        ];
        for (given, expected) in cases {
            assert_eq!(amended(given).as_deref(), Some(expected), "{given}");
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        let plain = [
            "{}",
            r#"{"a":"1e999","b":"\\u0000","c":"\"\\"}"#,
            "[0,-0.5,1.50,12345678901234567890.5]",
            r#""\u0041\n\t""#,
            "null",
            "true",
        ];
        for given in plain {
            assert_eq!(amended(given), None, "{given}");
        }
    }

    #[test]
    fn texts_lose_nul_and_what_is_too_long() {
        let mut name = Cow::Borrowed("a\0b");
        assert!(text(&mut name));
        assert_eq!(name, "a\u{FFFD}b");
        let mut name = Cow::Borrowed("ééé");
        assert!(clip(&mut name, 5));
        assert_eq!(name, "éé");
        assert!(!clip(&mut name, 4));
    }

    proptest! {
        #[test]
        fn what_is_amended_is_json_still(strings in prop::collection::vec(".*", 0..5), n in any::<f64>()) {
            let text = serde_json::json!({"strings": strings, "n": n}).to_string();
            let mut amended = Cow::Borrowed(text.as_str());
            let changed = json(&mut amended);
            let nul = strings.iter().any(|text| text.contains('\0'));
            let number = serde_json::json!(n).to_string();
            prop_assert_eq!(changed, nul || number.contains('e') || number == "-0.0");
            prop_assert!(serde_json::from_str::<serde_json::Value>(&amended).is_ok());
        }
    }
}
