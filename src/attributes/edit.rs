//! Editing of a context's JSON text: removes attributes that a caller may not set, and adds those of the tables.

use std::fmt::Write;

use crate::message::json::{Kind, Scanner, write_string};
use crate::message::request::{MAX_DEPTH_LEVELS, PROPERTIES};

/// The context without the attributes for which `is_removed`, also inside `properties`. The other members keep their
/// text and order. Text that is not an object is returned as an empty object.
pub(super) fn without(json: &str, is_removed: &dyn Fn(&str) -> bool) -> String {
    // The request was read before with the same limit of depth, so the text is a valid object.
    rewrite(json, is_removed).unwrap_or_else(|| "{}".to_owned())
}

fn rewrite(json: &str, is_removed: &dyn Fn(&str) -> bool) -> Option<String> {
    let mut scanner = Scanner::new(json, MAX_DEPTH_LEVELS);
    scanner.begin_object().ok()?;
    let (mut out, mut first) = (b"{".to_vec(), true);
    while let Some(name) = scanner.next_key(&mut first).ok()? {
        let value = scanner.value().ok()?;
        if is_removed(&name) {
            continue;
        }
        if out.len() > 1 {
            out.push(b',');
        }
        write_string(&mut out, &name);
        out.push(b':');
        match value.kind {
            Kind::Object if name == PROPERTIES => {
                out.extend_from_slice(rewrite(value.text, is_removed)?.as_bytes());
            }
            _ => out.extend_from_slice(value.text.as_bytes()),
        }
    }
    out.push(b'}');
    String::from_utf8(out).ok()
}

/// The context with further members behind its own, each with its JSON text.
pub(super) fn with<'a>(json: &str, added: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let open = json.trim_end().strip_suffix('}').unwrap_or("{");
    let mut out = String::with_capacity(json.len() + 64);
    out.push_str(open);
    let mut is_empty = open.trim() == "{";
    let mut name_json = Vec::new();
    for (name, value) in added {
        if !std::mem::take(&mut is_empty) {
            out.push(',');
        }
        name_json.clear();
        write_string(&mut name_json, name);
        // A JSON string of a text is UTF-8, and writing to a String cannot fail.
        let _ = write!(out, "{}:{value}", std::str::from_utf8(&name_json).unwrap_or("\"\""));
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_names_disappear_at_both_places_and_the_rest_stays_as_written() {
        let json =
            r#"{"plan":"a", "n": 1.50 ,"plan":null,"deep":{"plan":1},"properties":{"plan":"b", "q":[1, 2]}}"#;
        let expected = r#"{"n":1.50,"deep":{"plan":1},"properties":{"q":[1, 2]}}"#;
        assert_eq!(without(json, &|name| name == "plan"), expected);
        assert_eq!(without(r#"{"plan":1}"#, &|name| name == "plan"), "{}");
        assert_eq!(without("", &|_| false), "{}");
    }

    #[test]
    fn added_members_follow_the_others() {
        let added = [("plan", "\"gold\""), ("a\"b", "[1]")];
        assert_eq!(with("{}", added.into_iter()), r#"{"plan":"gold","a\"b":[1]}"#);
        assert_eq!(with(" { \"x\": 1 } ", added.into_iter().take(1)), r#" { "x": 1 ,"plan":"gold"}"#);
        assert_eq!(with("{ }", added.into_iter().take(1)), r#"{ "plan":"gold"}"#);
    }
}
