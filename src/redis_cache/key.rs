//! Names of the keys in Redis: the documented ones, and internal ones.

use std::borrow::Cow;
use std::fmt::Write;

/// Key of an outcome, which any service can compute.
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

/// Key of the outcome for a user without context, in the format of an earlier client.
pub fn plain(environment: &str, flag: &str, user: &str) -> String {
    format!("ff_eval:{}:{}:{}", encode(environment), encode(flag), encode(user))
}

/// Key of the edge layer with whether a flag is enabled for a user.
pub fn check(environment: &str, flag: &str, user: &str) -> String {
    format!("flag_check:{}:{}:{}", encode(environment), encode(flag), encode(user))
}

/// Key of the edge layer with the response for a flag and a user.
pub fn endpoint(environment: &str, flag: &str, user: &str) -> String {
    format!("flag_endpoint:{}:{}:{}", encode(environment), encode(flag), encode(user))
}

/// Key of the edge layer with the list of an environment's flags.
pub fn list(environment: &str) -> String {
    format!("flag_endpoint:{}", encode(environment))
}

/// Key of the edge layer with a flag's state and metadata.
pub fn data(environment: &str, flag: &str) -> String {
    format!("feature_flag:data:{}:{}", encode(environment), encode(flag))
}

/// Whether the key belongs to an edge layer.
pub(super) fn is_of_edge(key: &str) -> bool {
    ["flag_check:", "flag_endpoint:", "feature_flag:data:"].iter().any(|prefix| key.starts_with(prefix))
}

/// Globs that match all keys of a user, with `*` for environment and flag.
pub fn patterns_of_user(user: &str) -> [String; 4] {
    let user = escape_glob(&encode(user));
    [
        format!("feature_flag:eval:*:*:{user}:*"),
        format!("ff_eval:*:*:{user}"),
        format!("flag_check:*:*:{user}"),
        format!("flag_endpoint:*:*:{user}"),
    ]
}

/// Whether a key that matched a glob belongs to the user, because a `*` may also have matched a colon.
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

/// Percent-encodes `%` and `:`, so that different parts never give the same key.
pub fn encode(part: &str) -> Cow<'_, str> {
    encode_where(part, |c| matches!(c, '%' | ':'))
}

/// Common part of the internal keys of a flag. It is a hash tag, so that the keys share a slot in a cluster.
pub(super) fn place(environment: &str, flag: &str) -> String {
    let special = |c| matches!(c, '%' | ':' | '/' | '{' | '}');
    format!("{{{}/{}}}", encode_where(environment, special), encode_where(flag, special))
}

/// Environment and flag of a [`place`].
pub(super) fn of_place(place: &str) -> Option<(String, String)> {
    let (environment, flag) = place.strip_prefix('{')?.strip_suffix('}')?.split_once('/')?;
    Some((decode(environment), decode(flag)))
}

/// Key of the flag's minimum version: values based on an older version are stale.
pub(super) fn flag_min_version(place: &str) -> String {
    format!("flagstream:warm:{place}:floor")
}

/// Key of the sorted set with the chunks of the flag's keys.
pub(super) fn registry(place: &str) -> String {
    format!("flagstream:warm:{place}:chunks")
}

pub(super) fn chunk(place: &str, id: &str) -> String {
    format!("flagstream:warm:{place}:chunk:{id}")
}

/// Glob that matches all chunks.
pub(super) const CHUNKS: &str = "flagstream:warm:*:chunk:*";

/// Number of marker keys that show whether Redis has lost its content.
pub(super) const MARKERS_COUNT: usize = 8;

/// Keys that show whether Redis still has what was written: after a flush all are missing. A single one may be evicted.
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

/// Reverses [`encode_where`].
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
