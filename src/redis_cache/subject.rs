//! Subjects of an evaluation, and the values cached for them.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::value::RawValue;

use crate::attributes;
use crate::flag::{Cacheability, CompiledFlag, EnvironmentFlags, EvaluationContext, Moment, Snapshot};
use crate::message::json::write_string;
use crate::message::request;

use super::{cached_outcome, context_hash, key};

/// Longest combined length of environment, flag and user id, in bytes. Subjects with a longer one are not cached.
const KEY_BYTES_MAX: usize = 1_024;
/// Largest value that is cached, in bytes. Reading a larger one would block Redis for too long.
const VALUE_BYTES_MAX: usize = 64 * 1_024;
/// Largest context that is listed with its key, in bytes. With a larger one, a change removes the key instead of
/// refreshing it.
const LISTED_CONTEXT_BYTES_MAX: usize = 1_024;

/// Inputs of a key. Both events and requests have these fields.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub environment: &'a str,
    pub flag: &'a str,
    /// User id as evaluation sees it: `user_id`, or else the context's `userId`.
    pub user: Option<&'a str>,
    /// Session id as evaluation sees it: `session_id` next to the context or in it, or else the context's `sessionId`.
    /// A generated session counts as none.
    pub session: Option<&'a str>,
    /// Context as the JSON text of an object.
    pub context: &'a str,
}

/// Keys of a subject in Redis.
#[derive(Debug)]
pub struct Keys {
    pub evaluation: String,
    /// Key without a context hash. `None` if the subject has a context or a session.
    pub plain: Option<String>,
}

/// Values that are written for a subject.
#[derive(Debug)]
pub struct Entry {
    pub place: String,
    pub keys: Keys,
    pub value: Vec<u8>,
    pub plain_value: Vec<u8>,
    pub basis: u64,
    /// How long the outcome is valid; never [`Cacheability::Never`].
    pub cacheability: Cacheability,
    /// Exact lifetime. `None`: the configured lifetime, with jitter.
    pub life: Option<Duration>,
    /// Member of the index by which a change finds the key.
    pub member: Vec<u8>,
}

/// Flags, time and host of an evaluation.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationScope<'s> {
    pub snapshot: &'s Snapshot,
    pub moment: Moment<'s>,
    pub now_ms: i64,
    /// Whether tables of attributes complete contexts.
    pub has_tables: bool,
}

impl EvaluationScope<'_> {
    /// Whether the outcome of a flag may depend on more than the caller's context.
    pub fn is_completed(&self, flags: &EnvironmentFlags, flag: &CompiledFlag) -> bool {
        self.has_tables && attributes::concern(flags, flag)
    }
}

/// Reason why nothing is cached.
pub type Reason = &'static str;

impl<'a> Subject<'a> {
    /// Keys of the subject. `None` if the context is not a JSON object, or the key would be too long.
    pub fn keys(&self) -> Option<Keys> {
        self.keys_with(&request::context(self.context).ok()?)
    }

    fn keys_with(&self, context: &EvaluationContext<'_>) -> Option<Keys> {
        // A session id that comes from the context is already part of it.
        let given = self.session.filter(|session| !request::is_generated_session(session));
        let session = given.filter(|session| context.session_id.as_deref() != Some(*session));
        let user = self.user.unwrap_or_default();
        if self.environment.len() + self.flag.len() + user.len() > KEY_BYTES_MAX {
            return None;
        }
        let hash = context_hash(self.context, session).ok()?;
        let is_plain = session.is_none() && is_empty_object(self.context);
        Some(Keys {
            evaluation: key::evaluation(self.environment, self.flag, user, &hash),
            plain: is_plain.then(|| key::plain(self.environment, self.flag, user)),
        })
    }

    /// Evaluates the subject and builds the values to be written.
    pub fn entry(&self, scope: &EvaluationScope<'_>, evaluated_at: &str) -> Result<Entry, Reason> {
        let flags = scope.snapshot.environment(self.environment).ok_or("unserved")?;
        let mut keys = self.keys().ok_or("long_key")?;
        let context =
            request::recorded_context(self.context, self.user, self.session).map_err(|_| "context")?;
        let outcome = flags.evaluate(self.flag, &context, &scope.moment).ok_or("no_flag")?;
        let cacheability = flags.cacheability(outcome.flag, &context, scope.now_ms);
        match (outcome.failure, cacheability) {
            (Some(_), _) => return Err("error"),
            (None, Cacheability::Never(why)) => return Err(why),
            (None, _) => {}
        }
        let basis = scope.snapshot.basis(flags, outcome.flag);
        // Its readers know the user only, and not the attributes that belong to the outcome.
        keys.plain = keys.plain.filter(|_| !scope.is_completed(flags, outcome.flag));
        let (mut full, mut plain) = (Vec::with_capacity(192), Vec::new());
        cached_outcome::write(&mut full, &outcome, basis, evaluated_at);
        if full.len() > VALUE_BYTES_MAX {
            return Err("large_value");
        }
        if keys.plain.is_some() {
            cached_outcome::write_plain(&mut plain, &outcome, basis, evaluated_at);
        }
        Ok(Entry {
            place: key::place(self.environment, self.flag),
            member: self.member(&keys),
            keys,
            value: full,
            plain_value: plain,
            basis,
            cacheability,
            life: None,
        })
    }

    /// Index member `["user","session",{context}]`, with `null` for a missing id; only the key if the context is too
    /// large.
    fn member(&self, keys: &Keys) -> Vec<u8> {
        let mut member = Vec::with_capacity(self.context.len() + 48);
        member.push(b'[');
        if self.context.len() + self.session.map_or(0, str::len) > LISTED_CONTEXT_BYTES_MAX {
            write_string(&mut member, &keys.evaluation);
        } else {
            for text in [self.user, self.session] {
                match text {
                    Some(text) => write_string(&mut member, text),
                    None => member.extend_from_slice(b"null"),
                }
                member.push(b',');
            }
            member.extend_from_slice(self.context.as_bytes());
        }
        member.push(b']');
        member
    }
}

fn is_empty_object(text: &str) -> bool {
    let inside = text.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    inside.is_some_and(|inside| inside.trim().is_empty())
}

/// Decoded member of the index.
#[derive(Debug)]
pub enum Member<'a> {
    Subject { user: Option<String>, session: Option<String>, context: &'a str },
    Key(String),
}

impl<'a> Member<'a> {
    pub fn read(member: &'a [u8]) -> Option<Self> {
        if let Ok((user, session, context)) =
            serde_json::from_slice::<(Option<String>, Option<String>, &'a RawValue)>(member)
        {
            return Some(Self::Subject { user, session, context: context.get() });
        }
        serde_json::from_slice::<[String; 1]>(member).ok().map(|[key]| Self::Key(key))
    }
}

/// Current time, as text and in milliseconds since 1970.
#[derive(Debug)]
pub struct Clock {
    pub text: String,
    pub ms: i64,
}

impl Clock {
    pub fn now() -> Self {
        Self::at(Utc::now())
    }

    fn at(now: DateTime<Utc>) -> Self {
        Self { text: now.to_rfc3339_opts(SecondsFormat::Micros, true), ms: now.timestamp_millis() }
    }
}

#[cfg(test)]
#[path = "subject/tests.rs"]
mod tests;
