//! The one reader of evaluation contexts: requests, recorded events and the command line all go through it.
//!
//! ```text
//! {"plan": "gold", "sessionId": "s", …}  ──►  EvaluationContext { session_id, properties, … }
//! ```
//!
//! Of a name that is repeated the last one counts, also where it is `null`: then the name is absent.

use std::borrow::Cow;

use ahash::AHashMap;

use crate::flag::EvaluationContext;
use crate::flag::context::SESSION_PROPERTY;
use crate::message::json::{JsonError, Kind, Scanner, Span};

use super::MAX_DEPTH_LEVELS;

/// Where Unleash's own context has custom fields.
pub(crate) const PROPERTIES: &str = "properties";
/// What a session id that stands for nobody begins with.
const GENERATED_PREFIX: &str = "generated-";
const GENERATED_HEX_DIGITS: usize = 32;

/// A session id for a call that names neither a user nor a session, made from `number`.
pub fn generated_session(number: u128) -> String {
    format!("{GENERATED_PREFIX}{number:0width$x}", width = GENERATED_HEX_DIGITS)
}

/// Whether [`generated_session`] made this session id.
pub fn is_generated_session(session: &str) -> bool {
    session.strip_prefix(GENERATED_PREFIX).is_some_and(|digits| {
        digits.len() == GENERATED_HEX_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// What evaluation sees of a context's JSON text alone.
pub fn context(text: &str) -> Result<EvaluationContext<'_>, JsonError> {
    recorded_context(text, None, None)
}

/// What evaluation saw of a request that was recorded with this context, user and session.
pub fn recorded_context<'a>(
    text: &'a str,
    user: Option<&'a str>,
    session: Option<&'a str>,
) -> Result<EvaluationContext<'a>, JsonError> {
    let mut scanner = Scanner::new(text, MAX_DEPTH_LEVELS);
    let mut context = EvaluationContext::default();
    read_context(&mut scanner, &mut context)?;
    scanner.end()?;
    add_identity(&mut context, user.map(Cow::Borrowed), session.map(Cow::Borrowed));
    context.sort_properties();
    Ok(context)
}

/// User and session of the request win over those in its context. A generated session is none.
pub(super) fn add_identity<'a>(
    context: &mut EvaluationContext<'a>,
    user: Option<Cow<'a, str>>,
    session: Option<Cow<'a, str>>,
) {
    context.user_id = user.or(context.user_id.take());
    match session {
        Some(session) if is_generated_session(&session) => context.anonymous_id = Some(session),
        session => context.session_id = session.or(context.session_id.take()),
    }
}

/// An empty user or session is none.
pub(super) fn given(id: Option<Cow<'_, str>>) -> Option<Cow<'_, str>> {
    id.filter(|id| !id.is_empty())
}

/// Reads the object that stands here.
pub(super) fn read_context<'a>(
    scanner: &mut Scanner<'a>,
    context: &mut EvaluationContext<'a>,
) -> Result<(), JsonError> {
    if let Some(nested) = read_members(scanner, context)? {
        context.sort_properties();
        let mut within = EvaluationContext::default();
        read_members(&mut Scanner::new(nested.text, MAX_DEPTH_LEVELS), &mut within)?;
        add_missing(context, within);
    }
    Ok(())
}

/// Adds what the context does not have itself.
fn add_missing<'a>(context: &mut EvaluationContext<'a>, more: EvaluationContext<'a>) {
    let EvaluationContext { user_id, session_id, remote_address, current_time, app_name, .. } = more;
    context.user_id = context.user_id.take().or(user_id);
    context.session_id = context.session_id.take().or(session_id);
    context.remote_address = context.remote_address.take().or(remote_address);
    context.current_time = context.current_time.take().or(current_time);
    context.app_name = context.app_name.take().or(app_name);
    let missing: Vec<_> =
        more.properties.into_iter().filter(|(name, _)| context.property(name).is_none()).collect();
    context.properties_sorted &= missing.is_empty();
    context.properties.extend(missing);
}

/// Reads the members of the object that stands here. Returns the member in which Unleash's own context has custom
/// fields, if it is an object.
fn read_members<'a>(
    scanner: &mut Scanner<'a>,
    context: &mut EvaluationContext<'a>,
) -> Result<Option<Span<'a>>, JsonError> {
    let (mut session, mut absent, mut nested) = (None, Vec::new(), None);
    scanner.begin_object()?;
    let mut first = true;
    while let Some(key) = scanner.next_key(&mut first)? {
        let value = scanner.value()?;
        if key == PROPERTIES {
            nested = Some(value).filter(|value| value.kind == Kind::Object);
        }
        match (key.as_ref(), text_of(value)) {
            ("userId", text) => context.user_id = given(text),
            ("sessionId", text) => context.session_id = given(text),
            (SESSION_PROPERTY, text) => session = given(text),
            ("remoteAddress", text) => context.remote_address = text,
            ("currentTime", text) => context.current_time = text,
            ("appName", text) => context.app_name = text,
            // The environment is the request's.
            ("environment", _) => {}
            (_, Some(text)) => context.properties.push((key, text)),
            (_, None) => absent.push((key, context.properties.len())),
        }
    }
    // OpenFeature's protocol has no other place for a session than this.
    context.session_id = session.or(context.session_id.take());
    remove_absent(&mut context.properties, absent);
    Ok(nested)
}

/// Removes the properties before the last `null` of their name. `absent`: names, and how many properties came before.
fn remove_absent(properties: &mut Vec<(Cow<'_, str>, Cow<'_, str>)>, absent: Vec<(Cow<'_, str>, usize)>) {
    if absent.is_empty() || properties.is_empty() {
        return;
    }
    let last: AHashMap<Cow<'_, str>, usize> = absent.into_iter().collect();
    let mut position = 0;
    properties.retain(|(name, _)| {
        let removed = last.get(name).is_some_and(|before| position < *before);
        position += 1;
        !removed
    });
}

/// A value as the engine's operators see it: text as it is, numbers and booleans as their JSON text, lists and objects
/// as compact JSON; `null` is absent.
pub(super) fn text_of(span: Span<'_>) -> Option<Cow<'_, str>> {
    match span.kind {
        Kind::Null => None,
        Kind::String => span.as_string(),
        Kind::Boolean | Kind::Number => Some(Cow::Borrowed(span.text)),
        Kind::Object | Kind::Array => Some(span.compact()),
    }
}

#[cfg(test)]
#[path = "context/tests.rs"]
mod tests;
