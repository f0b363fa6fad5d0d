//! Canonical encoding of JSON values: equal values have equal bytes, however they are written.
//!
//! Postgres stores JSON as `jsonb`, which drops white space, the order of members, all but the last of repeated
//! members, and the spelling of numbers. A digest of the original text would therefore not match the text that is read
//! back. This encoding depends on the value alone.

use crate::message::json::{JsonError, Kind, Scanner};

/// Deepest nesting that is encoded. The JSON columns of a row are never deeper.
const MAX_DEPTH_LEVELS: usize = 64;

/// Appends the canonical encoding of `text`. Text that is not valid JSON is appended unchanged with a mark of its own;
/// the encoded columns hold only JSON.
pub fn encode(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    if value(text, MAX_DEPTH_LEVELS, out).is_err() {
        out.truncate(start);
        out.push(b'?');
        sized(text.as_bytes(), out);
    }
}

/// Appends `bytes` with a length prefix, so that different sequences of fields never encode alike.
pub fn sized(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn value(text: &str, depth: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let mut scanner = Scanner::new(text, depth);
    match scanner.peek()? {
        Kind::Null => {
            scanner.value()?;
            out.push(b'n');
        }
        Kind::Boolean => out.push(if scanner.value()?.text == "true" { b't' } else { b'f' }),
        Kind::Number => number(scanner.value()?.text, out),
        Kind::String => {
            out.push(b's');
            sized(scanner.string()?.as_bytes(), out);
        }
        Kind::Array => {
            out.push(b'[');
            scanner.begin_array()?;
            let mut first = true;
            while scanner.next_element(&mut first)? {
                value(scanner.value()?.text, depth.saturating_sub(1), out)?;
            }
            out.push(b']');
        }
        Kind::Object => object(scanner, depth, out)?,
    }
    Ok(())
}

/// Appends the members sorted by name; of a repeated name only the last one.
fn object(mut scanner: Scanner<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    out.push(b'{');
    scanner.begin_object()?;
    let (mut members, mut first) = (Vec::new(), true);
    while let Some(name) = scanner.next_key(&mut first)? {
        members.push((name, scanner.value()?.text));
    }
    // A stable sort keeps members with the same name in their original order.
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (index, (name, text)) in members.iter().enumerate() {
        if members.get(index + 1).is_some_and(|(next, _)| next == name) {
            continue;
        }
        sized(name.as_bytes(), out);
        value(text, depth.saturating_sub(1), out)?;
    }
    out.push(b'}');
    Ok(())
}

/// Appends sign, significant digits and exponent, so that `1e2`, `100` and `100.0` encode alike, and so do `0` and
/// `-0`.
fn number(text: &str, out: &mut Vec<u8>) {
    let (negative, unsigned) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let leading = digits.iter().take_while(|digit| **digit == b'0').count();
    let trailing = digits.iter().rev().take_while(|digit| **digit == b'0').count();
    let significant = digits.get(leading..digits.len().saturating_sub(trailing)).unwrap_or_default();
    out.push(b'#');
    if significant.is_empty() {
        return sized(b"0", out);
    }
    let given: i64 = exponent.strip_prefix('+').unwrap_or(exponent).parse().unwrap_or(i64::MAX);
    let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let exponent = given.saturating_sub(signed(fraction.len())).saturating_add(signed(trailing));
    out.push(if negative { b'-' } else { b'+' });
    sized(significant, out);
    out.extend_from_slice(&exponent.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode(text, &mut out);
        out
    }

    #[test]
    fn texts_of_one_value_encode_alike() {
        let equal = [
            ("1e2", "100.00"),
            ("-0", "0.0"),
            ("12.50", "125e-1"),
            ("1E+400", "10e399"),
            (r#"{"b":1,"a":[1, 2]}"#, r#"{ "a" : [1,2], "b" : 1.0 }"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#""\u0041\n""#, "\"A\\n\""),
        ];
        for (one, other) in equal {
            assert_eq!(encoded(one), encoded(other), "{one} {other}");
        }
    }

    #[test]
    fn different_values_encode_differently() {
        let texts = [
            "null",
            "true",
            "false",
            "0",
            "1",
            "-1",
            "10",
            "0.1",
            r#""""#,
            r#""0""#,
            r#""null""#,
            "[]",
            "{}",
            "[[]]",
            "[1,2]",
            "[12]",
            r#"["1","2"]"#,
            r#"["12"]"#,
            r#"{"a":"b"}"#,
            r#"{"ab":""}"#,
            r#"{"a":null}"#,
            "[null]",
            "not JSON",
        ];
        for (index, one) in texts.iter().enumerate() {
            for other in texts.iter().skip(index + 1) {
                assert_ne!(encoded(one), encoded(other), "{one} {other}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_serde_writes_anew_encodes_alike(map in prop::collection::btree_map(".*", any::<i64>(), 0..6)) {
            let text = serde_json::to_string(&map).unwrap_or_default();
            let pretty = serde_json::to_string_pretty(&map).unwrap_or_default();
            prop_assert_eq!(encoded(&text), encoded(&pretty));
        }
    }
}
