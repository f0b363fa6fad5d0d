//! Hides data about callers in everything that is written: attributes are dropped or replaced by a keyed hash, user ids
//! are kept or hashed.
//!
//! Flags are evaluated on the original data. The rules apply to what is written afterwards: events, replies, and
//! therefore database rows and Redis. The same text has the same hash under the same key, so counting and joining still
//! work. Dead letters contain the original data.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::PrivacyConfig;
use crate::flag::EvaluationContext;
use crate::message::json::{Kind, Scanner, write_string};
use crate::message::request::{MAX_DEPTH_LEVELS, PROPERTIES};

/// Number of bytes of the hash that are written, each as two hex digits.
const HASH_BYTES: usize = 16;
/// Members of a context that contain the user id.
const USER_ATTRIBUTES: [&str; 3] = ["userId", "user_id", "targetingKey"];
/// Members of a context that contain the session id. It is also a separate field of the request.
const SESSION_ATTRIBUTES: [&str; 2] = ["sessionId", "session_id"];

/// The privacy rules of this deployment.
pub struct Privacy {
    dropped: HashSet<String>,
    hashed: HashSet<String>,
    hash_users: bool,
    mac: Option<Hmac<Sha256>>,
}

/// The parts of a request as they may be written.
#[derive(Debug)]
pub struct Shown<'r> {
    pub user_id: Option<Cow<'r, str>>,
    pub session_id: Option<Cow<'r, str>>,
    /// The context as JSON text.
    pub context: Cow<'r, str>,
}

impl<'r> Shown<'r> {
    /// All parts unchanged, for a deployment without rules.
    pub fn of(context: &'r EvaluationContext<'_>, json: &'r str) -> Self {
        Self {
            user_id: context.user_id.as_deref().map(Cow::Borrowed),
            session_id: context.session_id.as_deref().map(Cow::Borrowed),
            context: Cow::Borrowed(json),
        }
    }
}

impl Privacy {
    /// The rules of `config`; `None` if everything is written unchanged.
    pub fn of(config: &PrivacyConfig) -> Option<Arc<Self>> {
        let PrivacyConfig { drop_attributes, hash_attributes, hash_user_ids, hash_key } = config;
        if !config.hides_anything() {
            return None;
        }
        // HMAC accepts keys of any length.
        let mac = hash_key.as_ref().and_then(|key| Hmac::new_from_slice(key.expose().as_bytes()).ok());
        Some(Arc::new(Self {
            dropped: drop_attributes.iter().cloned().collect(),
            hashed: hash_attributes.iter().cloned().collect(),
            hash_users: *hash_user_ids,
            mac,
        }))
    }

    /// The parts of a request that may be written. `json` is the text of `context`.
    pub fn show<'r>(&self, context: &'r EvaluationContext<'_>, json: &'r str) -> Shown<'r> {
        let all = Shown::of(context, json);
        Shown {
            user_id: all.user_id.map(|id| self.user(id)),
            session_id: all.session_id.and_then(|id| self.session(id)),
            context: self.context(json),
        }
    }

    /// The user id as it is written.
    pub fn user<'t>(&self, id: Cow<'t, str>) -> Cow<'t, str> {
        if self.hash_users { Cow::Owned(self.hash(id.as_bytes())) } else { id }
    }

    /// The record key as it is written. It usually is the user id.
    pub fn key<'t>(&self, key: &'t [u8]) -> Cow<'t, [u8]> {
        if self.hash_users { Cow::Owned(self.hash(key).into_bytes()) } else { Cow::Borrowed(key) }
    }

    /// Whether an attribute, by its name in the rules, is dropped or hashed.
    pub fn hides(&self, attribute: &str) -> bool {
        let listed = |name: &str| self.dropped.contains(name) || self.hashed.contains(name);
        let is_session = SESSION_ATTRIBUTES.contains(&attribute);
        listed(attribute)
            || (self.hash_users && USER_ATTRIBUTES.contains(&attribute))
            || (is_session && SESSION_ATTRIBUTES.iter().any(|name| listed(name)))
    }

    fn session<'t>(&self, id: Cow<'t, str>) -> Option<Cow<'t, str>> {
        let listed = |list: &HashSet<String>| SESSION_ATTRIBUTES.iter().any(|name| list.contains(*name));
        if listed(&self.dropped) {
            return None;
        }
        Some(if listed(&self.hashed) { Cow::Owned(self.hash(id.as_bytes())) } else { id })
    }

    /// The context's JSON text as it is written. Text that is not an object stays unchanged.
    pub fn context<'t>(&self, json: &'t str) -> Cow<'t, str> {
        if json == "{}" {
            return Cow::Borrowed(json);
        }
        // The request was parsed before with the same depth limit, so the text is valid.
        self.rewrite(json).map_or(Cow::Borrowed(json), Cow::Owned)
    }

    fn rewrite(&self, json: &str) -> Option<String> {
        let mut scanner = Scanner::new(json, MAX_DEPTH_LEVELS);
        scanner.begin_object().ok()?;
        let (mut out, mut first) = (b"{".to_vec(), true);
        while let Some(name) = scanner.next_key(&mut first).ok()? {
            let value = scanner.value().ok()?;
            if self.dropped.contains(name.as_ref()) {
                continue;
            }
            if out.len() > 1 {
                out.push(b',');
            }
            write_string(&mut out, &name);
            out.push(b':');
            let is_user = self.hash_users && USER_ATTRIBUTES.contains(&name.as_ref());
            match value.kind {
                Kind::Null => out.extend_from_slice(b"null"),
                // The members of `properties` are attributes too.
                Kind::Object if name == PROPERTIES => {
                    out.extend_from_slice(self.rewrite(value.text)?.as_bytes());
                }
                _ if is_user || self.hashed.contains(name.as_ref()) => {
                    let text = value.as_string().unwrap_or_else(|| value.compact());
                    write_string(&mut out, &self.hash(text.as_bytes()));
                }
                _ => out.extend_from_slice(value.text.as_bytes()),
            }
        }
        out.push(b'}');
        String::from_utf8(out).ok()
    }

    /// The hash in hex digits. Without a key, which the configuration does not allow, an empty text.
    fn hash(&self, text: &[u8]) -> String {
        let digest = self.mac.clone().map(|mac| mac.chain_update(text).finalize().into_bytes());
        digest.and_then(|digest| digest.get(..HASH_BYTES).map(hex::encode)).unwrap_or_default()
    }
}

impl std::fmt::Debug for Privacy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Privacy")
            .field("dropped", &self.dropped)
            .field("hashed", &self.hashed)
            .field("hash_users", &self.hash_users)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::message::request::Request;

    fn privacy(drop: &[&str], hash: &[&str], hash_user_ids: bool) -> Arc<Privacy> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Privacy::of(&PrivacyConfig {
            drop_attributes: names(drop),
            hash_attributes: names(hash),
            hash_user_ids,
            hash_key: Some(Secret::new("a key of sixteen")),
        })
        .unwrap()
    }

    #[test]
    fn attributes_are_dropped_or_hashed_and_the_rest_stays_as_written() {
        let privacy = privacy(&["email", "sessionId"], &["phone"], true);
        let body = r#"{"flag_name":"a","user_id":"ann","session_id":"s-1","context":
            {"email":"a@b.c", "n":1.50 ,"phone":"123","userId":"ann","email":null,"deep":{"email":1},
            "properties":{"email":"a@b.c","phone":"123","n":2.50}}}"#;
        let request = Request::decode(body.as_bytes()).unwrap();
        let shown = privacy.show(&request.context, &request.context_json);
        // HMAC-SHA256 of "ann" and "123" under this key, as computed by Python's hmac.
        let (ann, phone) = ("51cd6b73821c72359666197598a53f62", "4fa38e338cdcfc7335533c7051be0a62");
        assert_eq!(shown.user_id.as_deref(), Some(ann));
        assert_eq!(shown.session_id, None);
        assert_eq!(
            shown.context,
            format!(
                r#"{{"n":1.50,"phone":"{phone}","userId":"{ann}","deep":{{"email":1}},"properties":{{"phone":"{phone}","n":2.50}}}}"#
            )
        );
        assert_eq!(privacy.key(b"ann"), ann.as_bytes());
        assert!(!format!("{privacy:?}").contains("sixteen"));
    }

    #[test]
    fn without_rules_there_is_nothing_to_do() {
        let none = PrivacyConfig {
            drop_attributes: vec![],
            hash_attributes: vec![],
            hash_user_ids: false,
            hash_key: None,
        };
        assert!(Privacy::of(&none).is_none());
    }
}
