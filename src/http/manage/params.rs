//! Parameters of management requests: the flag's name in the path, query parameters, headers.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::flag::local::check_environment;
use crate::http::api::Api;
use crate::http::caller::{Authorized, RequiredScope};
use crate::http::input::{Input, last_parameter};
use crate::http::places::{CallPlace, Pool};
use crate::http::problem::FieldError;
use crate::http::{Caller, Problem};
use crate::manage::Expected;

use super::experiment::{experiments, refused};
use super::problem;

/// Header with the reason of a change.
const REASON_HEADER: &str = "x-change-reason";
/// Longest reason of a change, in bytes.
pub(in crate::http) const MAX_REASON_BYTES: usize = 1_000;
/// Largest offset of a list. Pages further back cost too much in the database.
const MAX_OFFSET: u32 = 1_000_000;

/// Request without a body, holding a slot of the management pool.
#[derive(Debug)]
pub struct Params {
    headers: HeaderMap,
    query: Option<String>,
    /// Concurrency slot, held until the response is complete.
    _place: CallPlace,
}

/// Name of the flag, from the path.
#[derive(Debug)]
pub struct FlagName(String);

impl FromRequestParts<Arc<Api>> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let place = api.places.take(Pool::Management)?;
        let query = parts.uri.query().map(str::to_owned);
        Ok(Self { headers: parts.headers.clone(), query, _place: place })
    }
}

/// Parses a time in RFC 3339 format, a parameter or a member of a body.
pub(in crate::http) fn moment(name: &str, text: &str) -> Result<DateTime<Utc>, Problem> {
    // In a query, `+` of a time zone may arrive as a space.
    DateTime::parse_from_rfc3339(&text.replace(' ', "+")).map(|time| time.to_utc()).map_err(|_| {
        let expected = "expected a time in RFC 3339 format, such as 2026-01-15T10:30:00Z";
        Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, name, expected)
    })
}

/// Name of an experiment in the path.
#[derive(Debug)]
pub struct ExperimentName(String);

impl FlagName {
    /// Returns the name if the caller's restrictions allow the flag, in force or not. The only way to the name for
    /// management, so that no route forgets the check.
    pub(in crate::http) async fn reachable(
        self,
        api: &Api,
        caller: &Caller,
        environment: &str,
    ) -> Result<String, Problem> {
        let checking = api.manager.check_reach(caller.restrictions(), environment, &self.0);
        checking.await.map_err(problem)?;
        Ok(self.0)
    }

    /// Returns the name for an evaluation, which shows nothing of a flag that is not in force.
    pub(in crate::http) fn evaluable(
        self,
        api: &Api,
        caller: &Caller,
        environment: &str,
    ) -> Result<String, Problem> {
        let snapshot = api.store.load();
        let flags = snapshot.environment(environment).map(|flags| &**flags);
        caller.restrictions().check_in_force(flags, &self.0)?;
        Ok(self.0)
    }
}

impl ExperimentName {
    /// Returns the name if the caller's restrictions allow the experiment's flag.
    pub(super) async fn reachable(
        self,
        api: &Api,
        caller: &Caller,
        environment: &str,
    ) -> Result<String, Problem> {
        let within = caller.restrictions();
        if !within.is_empty() {
            let design = experiments(api)?.design(environment, &self.0).await.map_err(refused)?;
            let checking = api.manager.check_reach(within, environment, &design.flag_name);
            checking.await.map_err(problem)?;
        }
        Ok(self.0)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for FlagName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        name_in_path(parts, state, "there is no flag of this name").await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ExperimentName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        name_in_path(parts, state, "there is no experiment of this name").await.map(Self)
    }
}

async fn name_in_path<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    unknown: &'static str,
) -> Result<String, Problem> {
    match Path::<String>::from_request_parts(parts, state).await {
        // Postgres cannot store a NUL character, so nothing has such a name.
        Ok(Path(name)) if name.contains('\0') => Err(Problem::new(StatusCode::NOT_FOUND, unknown)),
        Ok(Path(name)) => Ok(name),
        Err(_) => Err(Problem::of_field(StatusCode::BAD_REQUEST, "name", "expected UTF-8, percent-encoded")),
    }
}

/// Reads the required environment and checks that the caller has the scope of the route there.
pub(in crate::http) fn allowed<S: RequiredScope>(
    caller: &Authorized<S>,
    given: Option<Cow<'_, str>>,
) -> Result<String, Problem> {
    let environment = environment(given)?;
    caller.check_environment(&environment)?;
    Ok(environment)
}

/// Environments that a request is about if it need not name one. `None`: all, and the caller may see all.
pub(in crate::http) fn allowed_among<'c, S: RequiredScope>(
    caller: &'c Authorized<S>,
    named: Option<&'c str>,
) -> Result<Option<Vec<&'c str>>, Problem> {
    match named {
        Some(environment) => caller.check_environment(environment).map(|()| Some(vec![environment])),
        None => Ok(caller.environments()),
    }
}

/// Parses a JSON object. An empty body counts as an empty object.
pub(in crate::http) fn members(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    let refuse = |message: String| Err(Problem::of_field(StatusCode::BAD_REQUEST, "body", message));
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => refuse("expected an object".to_owned()),
        Err(error) => refuse(format!("not JSON: {error}")),
    }
}

/// Refuses members of a body that have no meaning.
pub(in crate::http) fn refuse_unknown(members: &Map<String, Value>, known: &[&str]) -> Result<(), Problem> {
    match members.keys().find(|name| !known.contains(&name.as_str())) {
        Some(unknown) => Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, unknown, "unknown field")),
        None => Ok(()),
    }
}

/// Reads a switch from a body; an absent one is off.
pub(in crate::http) fn member_switch(members: &Map<String, Value>, name: &str) -> Result<bool, Problem> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(_) => Err(Problem::of_field(StatusCode::BAD_REQUEST, name, "expected true or false")),
    }
}

impl Params {
    pub(in crate::http) fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        last_parameter(self.query.as_deref(), name)
    }

    pub(in crate::http) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(in crate::http) fn environment(&self) -> Result<String, Problem> {
        environment(self.parameter("environment"))
    }

    /// Optional environment. `None`: all environments.
    pub(in crate::http) fn any_environment(&self) -> Result<Option<String>, Problem> {
        self.parameter("environment").map(|name| environment(Some(name))).transpose()
    }

    pub(in crate::http) fn limit(&self, default: u32, max: u32) -> Result<u32, Problem> {
        self.whole("limit", default, 1, max)
    }

    /// Parses a whole number from `min` to `max`.
    pub(in crate::http) fn whole(
        &self,
        name: &str,
        default: u32,
        min: u32,
        max: u32,
    ) -> Result<u32, Problem> {
        let number = self.number(name, default, min, max);
        number.map_err(|(status, error)| Problem::of_fields(status, vec![error]))
    }

    /// Parses limit and offset, and reports the errors of both.
    pub(in crate::http) fn page(&self, default: u32, max: u32) -> Result<(u32, u32), Problem> {
        match (self.number("limit", default, 1, max), self.number("offset", 0, 0, MAX_OFFSET)) {
            (Ok(limit), Ok(offset)) => Ok((limit, offset)),
            (limit, offset) => {
                let wrong: Vec<_> = limit.err().into_iter().chain(offset.err()).collect();
                let status = wrong.iter().map(|(status, _)| *status).min().unwrap_or(StatusCode::BAD_REQUEST);
                Err(Problem::of_fields(status, wrong.into_iter().map(|(_, error)| error).collect()))
            }
        }
    }

    pub(in crate::http) fn switch(&self, name: &str) -> Result<bool, Problem> {
        match self.parameter(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::of_field(StatusCode::BAD_REQUEST, name, "expected true or false")),
        }
    }

    pub(in crate::http) fn reason(&self) -> Result<Option<String>, Problem> {
        checked_reason(self.headers.get(REASON_HEADER).map(|value| value.as_bytes()))
    }

    fn number(&self, name: &str, default: u32, min: u32, max: u32) -> Result<u32, (StatusCode, FieldError)> {
        let Some(text) = self.parameter(name) else {
            return Ok(default);
        };
        let expected = || FieldError::new(name, format!("expected a whole number from {min} to {max}"));
        match text.parse::<i128>() {
            Ok(number) => u32::try_from(number)
                .ok()
                .filter(|number| (min..=max).contains(number))
                .ok_or_else(|| (StatusCode::UNPROCESSABLE_ENTITY, expected())),
            Err(_) => Err((StatusCode::BAD_REQUEST, expected())),
        }
    }
}

pub(in crate::http) fn environment(given: Option<Cow<'_, str>>) -> Result<String, Problem> {
    let checked = given.as_deref().map(check_environment);
    let message = match (&given, checked) {
        (Some(name), Some(Ok(()))) => return Ok(name.clone().into_owned()),
        (_, Some(Err(message))) => message,
        _ => "is required".to_owned(),
    };
    Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "environment", message))
}

/// Parses `If-Match`: revisions in the form of an `ETag`. A weak tag matches nothing.
pub(in crate::http) fn expected(header: Option<&str>) -> Result<Expected, Problem> {
    let Some(header) = header.map(str::trim).filter(|header| *header != "*") else {
        return Ok(Expected::Any);
    };
    let mut revisions = Vec::new();
    for tag in header.split(',').map(str::trim) {
        let (weak, opaque) = tag.strip_prefix("W/").map_or((false, tag), |tag| (true, tag));
        let opaque = opaque.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        let Some(opaque) = opaque.filter(|opaque| !opaque.contains('"')) else {
            let message = "expected `*`, or a list of quoted ETags";
            return Err(Problem::of_field(StatusCode::BAD_REQUEST, "If-Match", message));
        };
        // A tag that is not a revision matches no flag.
        revisions.extend(opaque.parse::<i64>().ok().filter(|_| !weak));
    }
    Ok(Expected::OneOf(revisions))
}

pub(in crate::http) fn reason(input: &Input) -> Result<Option<String>, Problem> {
    checked_reason(input.header_bytes(REASON_HEADER))
}

fn checked_reason(header: Option<&[u8]>) -> Result<Option<String>, Problem> {
    let Some(bytes) = header else {
        return Ok(None);
    };
    let message = match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= MAX_REASON_BYTES => {
            return Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()));
        }
        Ok(_) => format!("expected at most {MAX_REASON_BYTES} bytes"),
        Err(_) => "expected UTF-8".to_owned(),
    };
    Err(Problem::of_field(StatusCode::BAD_REQUEST, "X-Change-Reason", message))
}

/// Encodes a flag name as a path segment. A name that equals a fixed route gets its first byte percent-encoded, which
/// no route has.
pub fn segment(name: &str) -> String {
    match name {
        "sync" => "%73ync".to_owned(),
        "stale" => "%73tale".to_owned(),
        "cleanup" => "%63leanup".to_owned(),
        "preload" => "%70reload".to_owned(),
        "evaluate" => "%65valuate".to_owned(),
        _ => encoded(name),
    }
}

/// Percent-encodes all but unreserved characters.
pub(in crate::http) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_revisions_in_quotes() {
        let one_of = |revisions: &[i64]| Ok(Expected::OneOf(revisions.to_vec()));
        assert_eq!(expected(None), Ok(Expected::Any));
        assert_eq!(expected(Some(" * ")), Ok(Expected::Any));
        assert_eq!(expected(Some("\"7\"")), one_of(&[7]));
        assert_eq!(expected(Some("\"7\", \"8\" ,W/\"9\"")), one_of(&[7, 8]));
        assert_eq!(expected(Some("\"someone-elses\"")), one_of(&[]));
        for bad in ["7", "\"7", "", "\"7\"8\"", ","] {
            assert_eq!(expected(Some(bad)).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
    }

    #[test]
    fn names_are_encoded_for_paths() {
        assert_eq!(encoded("a/b%2F c?d#é"), "a%2Fb%252F%20c%3Fd%23%C3%A9");
        assert_eq!((segment("sync").as_str(), segment("a/b").as_str()), ("%73ync", "a%2Fb"));
    }
}
