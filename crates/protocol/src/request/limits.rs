//! Length limits of the texts that every result of a request repeats.

use std::borrow::Cow;

use super::refusal::refuse;
use super::{Refusal, RefusalCode};

/// Maximum length of an environment's name in a request or call, in bytes of UTF-8. No environment has a
/// longer name.
pub const MAX_ENVIRONMENT_BYTES: usize = 100;
/// Maximum length of a `user_id` or `session_id` in any position, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 4_096;
/// Maximum length of the key of a request's record, in bytes.
pub const MAX_KEY_BYTES: usize = 64 << 10;
/// Maximum length of a `correlation-id`, in bytes.
pub const MAX_CORRELATION_ID_BYTES: usize = 1 << 10;

/// Refuses a field whose text is longer than `limit` bytes.
pub fn check_length(field: &str, bytes: usize, limit: usize) -> Result<(), Refusal> {
    check(RefusalCode::InvalidField, field, bytes, limit)
}

/// Refuses a record whose key or `correlation-id` is too long to be repeated with every event.
pub fn check_record(key: Option<&[u8]>, correlation_id: Option<&str>) -> Result<(), Refusal> {
    check(RefusalCode::TooLarge, "key", key.map_or(0, <[u8]>::len), MAX_KEY_BYTES)?;
    let bytes = correlation_id.map_or(0, str::len);
    check(RefusalCode::TooLarge, "correlation-id", bytes, MAX_CORRELATION_ID_BYTES)
}

/// The text of a field, unless it is too long.
pub(super) fn bounded<'a>(
    field: &str,
    text: Option<Cow<'a, str>>,
    limit: usize,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    check_length(field, text.as_ref().map_or(0, |text| text.len()), limit)?;
    Ok(text)
}

fn check(code: RefusalCode, field: &str, bytes: usize, limit: usize) -> Result<(), Refusal> {
    if bytes <= limit {
        return Ok(());
    }
    Err(refuse(code, field, format!("expected at most {limit} bytes, got {bytes}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::request::{Query, Request, Subject};

    /// A request with a text of `bytes` bytes in the member at `path`.
    fn request(path: &[&str], bytes: usize) -> String {
        let mut request = json!({"flag_name": "f", "context": {}});
        let (last, outer) = path.split_last().unwrap();
        let place = outer.iter().fold(&mut request, |value, name| &mut value[*name]);
        place[*last] = Value::String("x".repeat(bytes));
        request.to_string()
    }

    #[test]
    fn repeated_texts_are_refused_beyond_their_limit_and_named() {
        let limits: [(&[&str], usize); 5] = [
            (&["environment"], MAX_ENVIRONMENT_BYTES),
            (&["user_id"], MAX_ID_BYTES),
            (&["session_id"], MAX_ID_BYTES),
            (&["context", "userId"], MAX_ID_BYTES),
            (&["context", "sessionId"], MAX_ID_BYTES),
        ];
        for (path, limit) in limits {
            let (longest, longer) = (request(path, limit), request(path, limit + 1));
            assert!(Request::decode(longest.as_bytes()).is_ok(), "{path:?}");
            assert!(Query::one(longest.as_bytes(), None).is_ok(), "{path:?}");
            let refused = Request::decode(longer.as_bytes()).unwrap_err();
            assert_eq!((refused.code, refused.field), (RefusalCode::InvalidField, path.join(".")));
            let refused = Query::one(longer.as_bytes(), None).unwrap_err();
            let fields: Vec<_> = refused.into_iter().map(|refusal| refusal.field).collect();
            assert_eq!(fields, [path.join(".")]);
        }
        let key = |bytes: usize| json!({"context": {"targetingKey": "x".repeat(bytes)}}).to_string();
        assert!(Subject::of_openfeature(key(MAX_ID_BYTES).as_bytes()).is_ok());
        assert!(Subject::of_openfeature(key(MAX_ID_BYTES + 1).as_bytes()).is_err());
    }

    #[test]
    fn a_records_key_and_correlation_id_are_bounded() {
        let (key, id) = (vec![0; MAX_KEY_BYTES + 1], "x".repeat(MAX_CORRELATION_ID_BYTES + 1));
        assert_eq!(check_record(key.get(1..), id.get(1..)), Ok(()));
        let refused = check_record(Some(&key), None).unwrap_err();
        assert_eq!((refused.code, refused.field.as_str()), (RefusalCode::TooLarge, "key"));
        let refused = check_record(None, Some(&id)).unwrap_err();
        assert_eq!((refused.code, refused.field.as_str()), (RefusalCode::TooLarge, "correlation-id"));
    }
}
