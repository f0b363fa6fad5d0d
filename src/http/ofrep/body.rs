//! Responses and errors in the form of OFREP.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;

use crate::flag::{ErrorCode, Outcome, Reason, Value};
use crate::http::call::Answered;
use crate::http::changes::OFREP_STREAM;
use crate::message::event::{member, write_integer};
use crate::message::json::write_string;

/// Buffer size per flag, in bytes.
pub(super) const ONE_BYTES: usize = 192;
/// Time after which a provider without user activity closes its event stream, in seconds.
const INACTIVITY_SECONDS: u32 = 120;

/// OFREP error: the reason why a request has no answer.
#[derive(Debug)]
pub(in crate::http) struct Failure {
    status: StatusCode,
    code: &'static str,
    details: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Members of the metadata that all flags of an answer share, for telemetry: the environment and the user, as they may be
/// written.
pub(super) fn telemetry(environment: &str, user: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    member(&mut out, "flagSetId", Some(environment));
    if user.is_some() {
        member(&mut out, "contextId", user);
    }
    out
}

/// Writes the answer for one flag. Returns the error instead if there is no answer.
pub(super) fn write(
    out: &mut Vec<u8>,
    key: &str,
    answered: &Answered<'_>,
    telemetry: &[u8],
) -> Option<Failure> {
    let answer = &answered.answer;
    let (reason, version) = match (&answered.outcome, answer.error_code) {
        (Some(outcome), None) => (reason(outcome), outcome.flag.version),
        (None, None) if answered.was_kept && answer.reason == Reason::Disabled => {
            (answer.reason.as_str(), answer.flag_version.unwrap_or_default())
        }
        (None, None) if answered.was_kept => ("CACHED", answer.flag_version.unwrap_or_default()),
        _ => return Some(Failure::of(key, answer.error_code, answer.error_message.as_deref())),
    };
    out.extend_from_slice(br#"{"key":"#);
    write_string(out, key);
    // A flag with variants that is off has no value: the client uses its own default.
    if answer.value != Value::Null {
        out.extend_from_slice(br#","value":"#);
        answer.value.write_json(out);
    }
    member(out, "reason", Some(reason));
    let name = if answer.enabled { "enabled" } else { "disabled" };
    member(out, "variant", Some(answer.variant.unwrap_or(name)));
    out.extend_from_slice(br#","metadata":{"version":""#);
    write_integer(out, version);
    out.push(b'"');
    out.extend_from_slice(telemetry);
    if answer.reason == Reason::Disabled {
        out.extend_from_slice(br#","killed":true"#);
    }
    out.extend_from_slice(b"}}");
    None
}

/// Maps the outcome to a reason of OpenFeature.
fn reason(outcome: &Outcome<'_>) -> &'static str {
    match outcome.variant {
        _ if outcome.killed || (!outcome.enabled && !outcome.flag.is_switched_on()) => "DISABLED",
        _ if !outcome.enabled => "DEFAULT",
        Some(_) if outcome.flag.variants().len() > 1 => "SPLIT",
        _ if outcome.flag.is_unconditional() => "STATIC",
        _ => "TARGETING_MATCH",
    }
}

/// Builds the response for all flags.
///
/// `ticket` lets a browser open the stream, which cannot send a token otherwise.
pub(super) fn around(flags: &[u8], environment: &str, version: u64, ticket: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(flags.len() + 256);
    out.extend_from_slice(br#"{"flags":["#);
    out.extend_from_slice(flags);
    out.extend_from_slice(br#"],"metadata":{"version":""#);
    write_integer(&mut out, version);
    out.push(b'"');
    out.extend_from_slice(&telemetry(environment, None));
    out.extend_from_slice(br#"},"eventStreams":[{"type":"sse","endpoint":{"requestUri":"#);
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("environment", environment);
    if let Some(ticket) = ticket {
        query.append_pair("ticket", ticket);
    }
    let query = query.finish();
    write_string(&mut out, &format!("{OFREP_STREAM}?{query}"));
    out.extend_from_slice(br#"},"inactivityDelaySec":"#);
    write_integer(&mut out, INACTIVITY_SECONDS);
    out.extend_from_slice(b"}]}");
    out
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, details: impl Into<String>) -> Self {
        Self { status, code, details: details.into(), headers: Vec::new() }
    }

    pub(super) fn not_ready(details: impl Into<String>) -> Self {
        let retry_after = (axum::http::header::RETRY_AFTER, HeaderValue::from(1));
        let code = ErrorCode::ProviderNotReady.as_str();
        let failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, details);
        Self { headers: vec![retry_after], ..failure }
    }

    fn of(key: &str, code: Option<ErrorCode>, message: Option<&str>) -> Self {
        let message = message.unwrap_or_default();
        match code {
            Some(ErrorCode::FlagNotFound) => Self::new(
                StatusCode::NOT_FOUND,
                ErrorCode::FlagNotFound.as_str(),
                format!("{key}: {message}"),
            ),
            Some(ErrorCode::ProviderNotReady) => Self::not_ready(message),
            _ => Self::new(StatusCode::BAD_REQUEST, ErrorCode::General.as_str(), message),
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>, key: Option<&str>) {
        out.push(b'{');
        if let Some(key) = key {
            out.extend_from_slice(br#""key":"#);
            write_string(out, key);
            out.push(b',');
        }
        out.extend_from_slice(br#""errorCode":"#);
        write_string(out, self.code);
        member(out, "errorDetails", Some(&self.details));
        out.push(b'}');
    }

    pub(in crate::http) fn into_response(self, key: Option<&str>) -> Response {
        let mut out = Vec::new();
        self.write(&mut out, key);
        let mut response = Response::new(Body::from(out));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(self.headers);
        response
    }
}
