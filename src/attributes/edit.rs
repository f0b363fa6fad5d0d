//! Editing of a context's JSON text: removes attributes that a caller may not set, and adds those of the tables.

use std::ops::Range;

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

/// Place of an added member in the text of a context: its name without quotes, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub name: Range<usize>,
    pub value: Range<usize>,
}

/// The context with further members behind its own, each with its JSON text, and the place of each. There are no places if
/// a name is written with escapes.
pub(super) fn with<'a>(
    json: &str,
    added: impl Iterator<Item = (&'a str, &'a str)>,
) -> (String, Option<Vec<Place>>) {
    let open = json.trim_end().strip_suffix('}').unwrap_or("{");
    let mut out = Vec::with_capacity(json.len() + 64);
    out.extend_from_slice(open.as_bytes());
    let mut is_empty = open.trim() == "{";
    let mut places = Some(Vec::with_capacity(2));
    for (name, value) in added {
        if !std::mem::take(&mut is_empty) {
            out.push(b',');
        }
        let start = out.len();
        write_string(&mut out, name);
        let end = out.len();
        out.push(b':');
        let place = Place { name: start + 1..end - 1, value: end + 1..end + 1 + value.len() };
        out.extend_from_slice(value.as_bytes());
        // With escapes, the text of the name is longer than the name.
        places = places.filter(|_| place.name.len() == name.len());
        if let Some(places) = &mut places {
            places.push(place);
        }
    }
    out.push(b'}');
    // All parts are texts, so the whole is UTF-8.
    (String::from_utf8(out).unwrap_or_default(), places)
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
        assert_eq!(with("{}", added.into_iter()), (r#"{"plan":"gold","a\"b":[1]}"#.to_owned(), None));
        let (text, places) = with(" { \"x\": 1 } ", added.into_iter().take(1));
        assert_eq!(text, r#" { "x": 1 ,"plan":"gold"}"#);
        let place = &places.unwrap_or_default()[0];
        assert_eq!((&text[place.name.clone()], &text[place.value.clone()]), ("plan", "\"gold\""));
        assert_eq!(with("{ }", added.into_iter().take(1)).0, r#"{ "plan":"gold"}"#);
    }
}
