//! Who asks for which flag, and what is kept of the answer.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::value::RawValue;

use crate::flag::{EvaluationContext, Moment, Snapshot, Steady};
use crate::message::json::write_string;
use crate::message::request;

use super::{context_hash, key, value};

/// A longer key is not worth keeping: most of it is somebody's user id.
const KEY_BYTES_MAX: usize = 1_024;
/// Payloads are small; a larger value would hold Redis up for too long when it is read.
const VALUE_BYTES_MAX: usize = 64 * 1_024;
/// A larger context is not listed beside its key: after a change the key is removed instead of evaluated anew.
const LISTED_CONTEXT_BYTES_MAX: usize = 1_024;

/// Everything that a key is made of. Events have these fields, and so have requests.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub environment: &'a str,
    pub flag: &'a str,
    /// As evaluation sees it: `user_id`, else the context's `userId`.
    pub user: Option<&'a str>,
    /// As evaluation sees it: `session_id` beside the context or in it, else its `sessionId`. A generated one is none.
    pub session: Option<&'a str>,
    /// JSON text of an object.
    pub context: &'a str,
}

/// A subject's place in Redis.
#[derive(Debug)]
pub struct Keys {
    pub evaluation: String,
    /// For evaluations without context and session.
    pub plain: Option<String>,
}

/// What is written for a subject.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) place: String,
    pub(crate) keys: Keys,
    pub(crate) value: Vec<u8>,
    pub(crate) plain_value: Vec<u8>,
    pub(crate) basis: u64,
    /// Never [`Steady::No`].
    pub(crate) steady: Steady,
    /// How long it lives, to the moment; `None`: as long as others in the view, more or less.
    pub(crate) life: Option<Duration>,
    /// How the key is listed for its flag.
    pub(crate) member: Vec<u8>,
}

/// When and where an entry is evaluated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'s> {
    pub(crate) snapshot: &'s Snapshot,
    pub(crate) moment: Moment<'s>,
    pub(crate) now_ms: i64,
}

/// Why there is nothing to keep.
pub(crate) type Reason = &'static str;

impl<'a> Subject<'a> {
    /// Where the subject's outcome stands; `None` if the context isn't the JSON of an object, or too long.
    pub fn keys(&self) -> Option<Keys> {
        self.keys_with(&request::context(self.context).ok()?)
    }

    fn keys_with(&self, context: &EvaluationContext<'_>) -> Option<Keys> {
        // A session that the context names itself was not given beside it.
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

    /// Evaluates the subject, and makes what is to be written.
    pub(crate) fn entry(&self, scene: &Scene<'_>, evaluated_at: &str) -> Result<Entry, Reason> {
        let flags = scene.snapshot.environment(self.environment).ok_or("unserved")?;
        let keys = self.keys().ok_or("long_key")?;
        let context =
            request::recorded_context(self.context, self.user, self.session).map_err(|_| "context")?;
        let outcome = flags.evaluate(self.flag, &context, &scene.moment).ok_or("no_flag")?;
        let steady = flags.steady(outcome.flag, &context, scene.now_ms);
        match (outcome.failure, steady) {
            (Some(_), _) => return Err("error"),
            (None, Steady::No(why)) => return Err(why),
            (None, _) => {}
        }
        let basis = scene.snapshot.basis(flags, outcome.flag);
        let (mut full, mut plain) = (Vec::with_capacity(192), Vec::new());
        value::write(&mut full, &outcome, basis, evaluated_at);
        if full.len() > VALUE_BYTES_MAX {
            return Err("large_value");
        }
        if keys.plain.is_some() {
            value::write_plain(&mut plain, &outcome, basis, evaluated_at);
        }
        Ok(Entry {
            place: key::place(self.environment, self.flag),
            member: self.member(&keys),
            keys,
            value: full,
            plain_value: plain,
            basis,
            steady,
            life: None,
        })
    }

    /// `["user","session",{context}]`, `null` for none; a key alone where the context is too large.
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

/// A listed key.
#[derive(Debug)]
pub(crate) enum Member<'a> {
    Subject { user: Option<String>, session: Option<String>, context: &'a str },
    Key(String),
}

impl<'a> Member<'a> {
    pub(crate) fn read(member: &'a [u8]) -> Option<Self> {
        if let Ok((user, session, context)) =
            serde_json::from_slice::<(Option<String>, Option<String>, &'a RawValue)>(member)
        {
            return Some(Self::Subject { user, session, context: context.get() });
        }
        serde_json::from_slice::<[String; 1]>(member).ok().map(|[key]| Self::Key(key))
    }
}

/// The present as evaluation and values have it.
pub(crate) struct Clock {
    pub(crate) text: String,
    pub(crate) ms: i64,
}

impl Clock {
    pub(crate) fn now() -> Self {
        Self::at(Utc::now())
    }

    fn at(now: DateTime<Utc>) -> Self {
        Self { text: now.to_rfc3339_opts(SecondsFormat::Micros, true), ms: now.timestamp_millis() }
    }
}

#[cfg(test)]
#[path = "subject/tests.rs"]
mod tests;
