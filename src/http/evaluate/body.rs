//! Response bodies of evaluations, written directly as JSON.

use crate::message::event::{member, write_answer, write_integer};
use crate::message::json::write_string;
use crate::message::request::{Ask, Subject};

use crate::manage::Explained;

use crate::http::call::{Answered, Call, EventSink};

/// Buffer size of a response for one flag, in bytes.
pub(super) const ONE_BYTES: usize = 448;
/// Initial capacity per result of a response, in bytes.
const RESULT_BYTES: usize = 256;

/// Writes the response for one flag.
pub(super) fn write_one(out: &mut Vec<u8>, call: &Call<'_>, ask: &Ask<'_>, answered: &Answered<'_>) {
    out.extend_from_slice(br#"{"flag_name":"#);
    write_string(out, &ask.flag);
    out.push(b',');
    write_result(out, answered);
    write_frame(out, call);
    out.push(b'}');
}

/// Adds the member `explanation` to the response for one flag. It is null for an unknown flag.
pub(super) fn add_explanation(out: &mut Vec<u8>, explained: Option<&Explained>) {
    let explanation = serde_json::to_vec(&explained.map(|explained| &explained.explanation));
    let (Ok(explanation), Some(b'}')) = (explanation, out.pop()) else { return };
    out.extend_from_slice(br#","explanation":"#);
    out.extend_from_slice(&explanation);
    out.push(b'}');
}

/// Writes the response for many flags and one subject.
pub(super) fn bulk(
    call: &Call<'_>,
    subject: &Subject<'_>,
    asks: &[Ask<'_>],
    event_sink: &mut EventSink<'_>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(ONE_BYTES + asks.len() * RESULT_BYTES);
    out.extend_from_slice(br#"{"results":"#);
    write_results(&mut out, call, subject, asks, event_sink);
    write_frame(&mut out, call);
    out.push(b'}');
    out
}

/// Writes the response for many flags and many subjects, in the order of the request.
pub(super) fn contexts(
    call: &Call<'_>,
    subjects: &[Subject<'_>],
    asks: &[Ask<'_>],
    event_sink: &mut EventSink<'_>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(ONE_BYTES + asks.len() * subjects.len() * RESULT_BYTES);
    out.extend_from_slice(br#"{"contexts":["#);
    for (index, subject) in subjects.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"user_id":"#);
        match &subject.context.user_id {
            Some(user) => write_string(&mut out, user),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(br#","results":"#);
        write_results(&mut out, call, subject, asks, event_sink);
        out.push(b'}');
    }
    out.push(b']');
    write_frame(&mut out, call);
    out.push(b'}');
    out
}

/// Writes the results by flag, without an envelope.
pub(super) fn batch(
    call: &Call<'_>,
    subject: &Subject<'_>,
    asks: &[Ask<'_>],
    event_sink: &mut EventSink<'_>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(asks.len() * RESULT_BYTES);
    write_results(&mut out, call, subject, asks, event_sink);
    out
}

fn write_results(
    out: &mut Vec<u8>,
    call: &Call<'_>,
    subject: &Subject<'_>,
    asks: &[Ask<'_>],
    event_sink: &mut EventSink<'_>,
) {
    let call_subject = call.call_subject(subject);
    out.push(b'{');
    for (index, ask) in asks.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, &ask.flag);
        out.extend_from_slice(b":{");
        write_result(out, &call.answer(&call_subject, ask, event_sink));
        out.push(b'}');
    }
    out.push(b'}');
}

/// Writes the members `value` to `event_id` of one result.
fn write_result(out: &mut Vec<u8>, answered: &Answered<'_>) {
    out.extend_from_slice(br#""value":"#);
    answered.answer.value.write_json(out);
    write_answer(out, &answered.answer);
    member(out, "event_id", Some(answered.event_id()));
}

/// Writes the members that all results of a request share.
fn write_frame(out: &mut Vec<u8>, call: &Call<'_>) {
    member(out, "environment", Some(call.environment));
    out.extend_from_slice(br#","flags_version":"#);
    write_integer(out, call.flags_version);
    member(out, "evaluated_at", Some(&call.now));
}
