//! The names of keys in Redis: those that clients know, and our own beside them.

use std::borrow::Cow;
use std::fmt::Write;

/// Where a value stands that any service can compute.
pub fn evaluation(environment: &str, flag: &str, user: &str, context_hash: &str) -> String {
    let parts = [encode(environment), encode(flag), encode(user)];
    let [environment, flag, user] = &parts;
    let length = environment.len() + flag.len() + user.len() + context_hash.len() + 21;
    let mut key = String::with_capacity(length);
    for part in ["feature_flag:eval:", environment, ":", flag, ":", user, ":", context_hash] {
        key.push_str(part);
    }
    key
}

/// Where the value for a user without any context stands, for seed 001's clients.
pub fn plain(environment: &str, flag: &str, user: &str) -> String {
    format!("ff_eval:{}:{}:{}", encode(environment), encode(flag), encode(user))
}

/// Where the edge API keeps whether a flag is on for a user.
pub fn check(environment: &str, flag: &str, user: &str) -> String {
    format!("flag_check:{}:{}:{}", encode(environment), encode(flag), encode(user))
}

/// Where the edge API keeps what it says of a flag to a user.
pub fn endpoint(environment: &str, flag: &str, user: &str) -> String {
    format!("flag_endpoint:{}:{}:{}", encode(environment), encode(flag), encode(user))
}

/// Where the edge API keeps the list of an environment's flags.
pub fn list(environment: &str) -> String {
    format!("flag_endpoint:{}", encode(environment))
}

/// Where the edge API keeps what a flag is.
pub fn data(environment: &str, flag: &str) -> String {
    format!("feature_flag:data:{}:{}", encode(environment), encode(flag))
}

/// Whether it is a key of the edge API.
pub(super) fn is_of_edge(key: &str) -> bool {
    ["flag_check:", "flag_endpoint:", "feature_flag:data:"].iter().any(|prefix| key.starts_with(prefix))
}

/// Globs that match all keys of a user, of every kind; `*` in place of environment and flag.
pub fn patterns_of_user(user: &str) -> [String; 4] {
    let user = escape_glob(&encode(user));
    [
        format!("feature_flag:eval:*:*:{user}:*"),
        format!("ff_eval:*:*:{user}"),
        format!("flag_check:*:*:{user}"),
        format!("flag_endpoint:*:*:{user}"),
    ]
}

/// Whether a key that matched a glob is the user's: a `*` may also have matched a colon.
pub fn is_of_user(key: &str, user: &str) -> bool {
    let user = encode(user);
    let parts: Vec<&str> = key.split(':').collect();
    match parts.as_slice() {
        ["feature_flag", "eval", _, _, its, _] | ["ff_eval" | "flag_check" | "flag_endpoint", _, _, its] => {
            *its == user
        }
        _ => false,
    }
}

/// `%` and `:` inside a part would make two keys one.
pub fn encode(part: &str) -> Cow<'_, str> {
    encode_where(part, |c| matches!(c, '%' | ':'))
}

/// The common part of our own keys for a flag: a hash tag, so that in a cluster they share a slot.
pub(super) fn place(environment: &str, flag: &str) -> String {
    let special = |c| matches!(c, '%' | ':' | '/' | '{' | '}');
    format!("{{{}/{}}}", encode_where(environment, special), encode_where(flag, special))
}

/// Environment and flag of a [`place`].
pub(super) fn of_place(place: &str) -> Option<(String, String)> {
    let (environment, flag) = place.strip_prefix('{')?.strip_suffix('}')?.split_once('/')?;
    Some((decode(environment), decode(flag)))
}

/// The oldest version that the flag's values may be based on.
pub(super) fn floor(place: &str) -> String {
    format!("flagstream:warm:{place}:floor")
}

/// The chunks that the flag's keys are listed in.
pub(super) fn registry(place: &str) -> String {
    format!("flagstream:warm:{place}:chunks")
}

pub(super) fn chunk(place: &str, id: &str) -> String {
    format!("flagstream:warm:{place}:chunk:{id}")
}

/// A glob that matches all chunks.
pub(super) const CHUNKS: &str = "flagstream:warm:*:chunk:*";

pub(super) const MARKERS_COUNT: usize = 8;

/// They tell whether Redis still has what was written: all are gone after a flush. One may be evicted.
pub(super) fn markers() -> impl Iterator<Item = String> {
    (0..MARKERS_COUNT).map(|number| format!("flagstream:warm:{{marker}}:{number}"))
}

fn encode_where(part: &str, special: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !part.contains(&special) {
        return Cow::Borrowed(part);
    }
    let mut encoded = String::with_capacity(part.len() + 8);
    for c in part.chars() {
        if special(c) {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{:02X}", u32::from(c));
        } else {
            encoded.push(c);
        }
    }
    Cow::Owned(encoded)
}

/// Undoes [`encode_where`].
fn decode(part: &str) -> String {
    let mut pieces = part.split('%');
    let mut decoded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let code = piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.extend(code.map(char::from));
        decoded.push_str(piece.get(2..).unwrap_or_default());
    }
    decoded
}

fn escape_glob(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cannot_run_into_each_other() {
        assert_eq!(evaluation("prod", "f", "u", "0123"), "feature_flag:eval:prod:f:u:0123");
        assert_eq!(evaluation("prod", "f", "", "0123"), "feature_flag:eval:prod:f::0123");
        assert_eq!(plain("p:1", "100%", "a:b"), "ff_eval:p%3A1:100%25:a%3Ab");
        assert_ne!(plain("a", "b:c", "d"), plain("a", "b", "c:d"));
        assert_eq!(place("a/b", "c{d}%:"), "{a%2Fb/c%7Bd%7D%25%3A}");
        assert_eq!(of_place("{a%2Fb/c%7Bd%7D%25%3A}"), Some(("a/b".to_owned(), "c{d}%:".to_owned())));
    }

    #[test]
    fn a_users_keys_are_told_from_others() {
        let key = evaluation("e", "f", "a:b", "00");
        assert!(is_of_user(&key, "a:b"));
        assert!(!is_of_user(&key, "b"));
        assert!(!is_of_user(&plain("e", "u", "x"), "u"));
        assert!(is_of_user(&check("e", "f", "u"), "u") && is_of_user(&endpoint("e", "f", "u"), "u"));
        assert!(!is_of_user(&data("e", "u"), "u") && !is_of_user(&list("u"), "u"));
        assert_eq!(patterns_of_user("a*")[1], "ff_eval:*:*:a\\*");
    }
}
