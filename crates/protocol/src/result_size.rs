//! Upper bound of the size of a request's results, computed from its input before any result is created.
//!
//! A result repeats most of the request, so without a limit a small request could produce gigabytes. Requests
//! in Kafka and calls over HTTP are measured by the same function.

use flagstream_evaluation::{EnvironmentFlags, EvaluationContext};

use super::request::Ask;

/// Number of times a default is written: as `default_value`, as text (escaped, so up to twice as long), as
/// JSON, and in the answer.
const DEFAULT_COPIES: usize = 5;
/// Number of times a flag's own value is written: as text (escaped, so up to twice as long), as JSON, and in
/// the answer.
const VALUE_COPIES: usize = 4;
/// Up to this sum in bytes, the largest value of the environment is used for each flag, which is a cheap
/// upper bound.
const ROUGH_BYTES: usize = 1 << 20;

/// Input that every result of a request or call repeats, independent of the subject and the flag.
#[derive(Debug)]
pub struct Repeated<'a> {
    pub environment: &'a str,
    /// Flags of the environment; `None` if it is not served, which each result reports with the environment's
    /// name.
    pub flags: Option<&'a EnvironmentFlags>,
    pub request_id: Option<&'a str>,
    /// Size in bytes of the record's key and of the headers that are passed on.
    pub record_bytes: usize,
}

/// Size in bytes of all events and of the answer or reply, without the parts that are the same for every
/// request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultBytes {
    /// Bytes that originate from the request.
    pub echoed: usize,
    /// Upper bound of the bytes that originate from the flags: values of variants.
    pub values: usize,
}

impl ResultBytes {
    pub fn total(self) -> usize {
        self.echoed.saturating_add(self.values)
    }
}

/// Measures the results for each of `subjects` (a context and its JSON text) and each of `asks`.
pub fn result_bytes<'s, 'c: 's>(
    repeated: &Repeated<'_>,
    asks: &[Ask<'_>],
    subjects: impl IntoIterator<Item = (&'s EvaluationContext<'c>, &'s str)>,
) -> ResultBytes {
    let (mut subject_count, mut subject_bytes) = (0usize, 0usize);
    for (context, json) in subjects {
        subject_count += 1;
        let user = context.user_id.as_deref();
        // The user id is a member of the event, and also its key or a member of the reply.
        let session = context.session_id.as_deref().or(context.anonymous_id.as_deref());
        let ids = 2 * text_bytes(user) + text_bytes(session);
        subject_bytes = subject_bytes.saturating_add(json.len() + ids);
    }
    let environment = text_bytes(Some(repeated.environment));
    // If the environment is not served, event and answer repeat its name in their error message.
    let environment = if repeated.flags.is_none() { 3 * environment } else { environment };
    let common = environment + text_bytes(repeated.request_id) + repeated.record_bytes;
    let asked: usize = asks.iter().map(ask_bytes).fold(0, usize::saturating_add);
    let results = asks.len().saturating_mul(subject_count);
    let echoed = asks
        .len()
        .saturating_mul(subject_bytes)
        .saturating_add(asked.saturating_mul(subject_count))
        .saturating_add(common.saturating_mul(results));
    let values = repeated.flags.map_or(0, |flags| value_bytes(flags, asks, subject_count));
    ResultBytes { echoed, values }
}

/// Bytes of a flag's name in event and answer, and of its default.
fn ask_bytes(ask: &Ask<'_>) -> usize {
    2 * text_bytes(Some(&ask.flag)) + DEFAULT_COPIES * ask.default_json.map_or(0, str::len)
}

fn value_bytes(flags: &EnvironmentFlags, asks: &[Ask<'_>], subject_count: usize) -> usize {
    let copies = VALUE_COPIES.saturating_mul(subject_count);
    let rough = flags.largest_value_bytes().saturating_mul(asks.len()).saturating_mul(copies);
    if rough <= ROUGH_BYTES {
        return rough;
    }
    let largest = |ask: &Ask<'_>| flags.get(&ask.flag).map_or(0, |flag| flag.largest_value_bytes());
    asks.iter().map(largest).fold(0, usize::saturating_add).saturating_mul(copies)
}

/// Length of a text within a JSON string, in bytes.
fn text_bytes(text: Option<&str>) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0x00..0x20 => 6,
        _ => 1,
    };
    text.map_or(0, |text| text.bytes().map(escaped).sum())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{EventFrame, EventSource, Timestamp, write_event};
    use crate::request::Request;
    use flagstream_evaluation::value::{Lookup, answer};
    use flagstream_evaluation::{CompiledFlag, FlagChange, Moment, Snapshot};

    const FLAGS: usize = 20;

    fn flags(value_bytes: usize) -> Snapshot {
        let flags = (0..FLAGS).map(|number| {
            let definition = format!(
                r#"{{"name":"f{number}","enabled":true,"strategies":[],"variants":[{{"name":"v","weight":1000,"payload":{{"type":"string","value":"{}"}}}}]}}"#,
                "v".repeat(value_bytes)
            );
            FlagChange::Set(Arc::new(CompiledFlag::compile("production", 1, &definition).unwrap()))
        });
        Snapshot::default().with(flags)
    }

    /// Actual size of a request's events, and the bound that was computed before.
    fn written_and_bound(snapshot: &Snapshot, request: &str, record_bytes: usize) -> (usize, ResultBytes) {
        let request = Request::decode(request.as_bytes()).unwrap();
        let environment = request.environment.as_deref().unwrap_or("production");
        let flags = snapshot.environment(environment);
        let repeated = Repeated {
            environment,
            flags: flags.map(Arc::as_ref),
            request_id: request.request_id.as_deref(),
            record_bytes,
        };
        let asks = request.asks.as_slice();
        let bound = result_bytes(&repeated, asks, [(&request.context, request.context_json.as_ref())]);
        let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "h", app_name: "a" };
        let mut written = 0;
        for ask in asks {
            let lookup = Lookup::evaluate(flags, environment, &ask.flag, &request.context, &moment);
            let answer = answer(&ask.flag, lookup, ask.value_type, ask.default.as_ref());
            let frame = EventFrame {
                event_id: "",
                request_id: request.request_id.as_deref(),
                user_id: request.context.user_id.as_deref(),
                session_id: request.context.session_id.as_deref(),
                environment,
                context: &request.context_json,
                attributes: None,
                evaluated_at: Timestamp { text: "", micros: 0 },
                flags_version: 1,
                value_type: None,
                evaluation_ns: None,
                source: EventSource::Api("rest"),
            };
            let mut event = Vec::new();
            write_event(&mut event, &frame, ask, &answer);
            written += event.len() + record_bytes;
        }
        (written, bound)
    }

    #[test]
    fn no_repeated_field_is_left_out_of_the_bound() {
        let names: Vec<_> = (0..FLAGS).map(|number| format!("\"f{number}\"")).collect();
        let names = names.join(",");
        let (long, quotes) = ("x".repeat(4_000), r#"\""#.repeat(2_000));
        let default = r#"[\"\"],"#.replace('\\', "").repeat(500);
        let members = [
            format!(r#""environment":"{}""#, "e".repeat(100)),
            format!(r#""user_id":"{long}""#),
            format!(r#""user_id":"{quotes}""#),
            format!(r#""session_id":"{long}""#),
            format!(r#""request_id":"{long}""#),
            format!(r#""context":{{"a":"{long}"}}"#),
            format!(r#""default_values":{{"f1":[{default}1],"f2":"{quotes}"}},"environment":"elsewhere""#),
            r#""value_types":{"f3":"string"}"#.to_owned(),
        ];
        let snapshot = flags(10);
        // Size of the parts that do not depend on the input: member names, reason, times, numbers.
        let fixed = FLAGS * 700;
        for member in members {
            let request = format!(r#"{{"flag_names":[{names}],{member}}}"#);
            let (written, bound) = written_and_bound(&snapshot, &request, 0);
            assert!(bound.total() + fixed >= written, "{written} bytes, at most {bound:?}: {member:.40}");
        }
        let request = format!(r#"{{"flag_names":[{names}]}}"#);
        let (written, bound) = written_and_bound(&snapshot, &request, 100_000);
        assert!(bound.echoed + fixed >= written && bound.echoed >= FLAGS * 100_000, "{bound:?}");
    }

    #[test]
    fn values_are_bounded_by_the_largest_of_each_flag() {
        let snapshot = flags(200_000);
        let request = r#"{"flag_names":["f1","f2","unknown"],"value_types":{"f1":"string","f2":"string"}}"#;
        let (written, bound) = written_and_bound(&snapshot, request, 0);
        assert!(written > 2 * 2 * 200_000 && bound.values >= written - 3_000, "{written}, {bound:?}");
        assert!(bound.values < 2 * 5 * 200_000, "the unknown flag has no value: {bound:?}");
    }
}
