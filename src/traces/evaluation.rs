//! The log event `feature_flag.evaluation` of OpenTelemetry's semantic conventions.

use std::time::SystemTime;

use opentelemetry::Context;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, Severity};
use opentelemetry::trace::TraceContextExt as _;

use super::ACTIVE;
use crate::flag::{Answer, ErrorCode};
use crate::privacy::Shown;

/// Writes the log event of an evaluation, if the span that it belongs to is sampled. `shown` is what privacy settings
/// leave of the user.
pub fn evaluated(answer: &Answer<'_>, flag: &str, environment: &str, shown: &Shown<'_>) {
    let Some(active) = ACTIVE.get() else { return };
    let span = Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_sampled().then(|| (span.trace_id(), span.span_id(), span.trace_flags()))
    });
    let Some((trace_id, span_id, flags)) = span else { return };
    let mut record = active.logger.create_log_record();
    record.set_event_name("feature_flag.evaluation");
    record.set_timestamp(SystemTime::now());
    record.set_severity_number(Severity::Info);
    record.set_trace_context(trace_id, span_id, Some(flags));
    record.add_attributes(attributes(answer, flag, environment, shown));
    active.logger.emit(record);
}

/// The attributes of the semantic conventions, and the environment as the set of flags.
pub(super) fn attributes(
    answer: &Answer<'_>,
    flag: &str,
    environment: &str,
    shown: &Shown<'_>,
) -> Vec<(&'static str, AnyValue)> {
    let text = |text: &str| AnyValue::from(text.to_owned());
    let mut attributes = vec![
        ("feature_flag.key", text(flag)),
        ("feature_flag.set.id", text(environment)),
        ("feature_flag.provider.name", text("flagstream")),
        ("feature_flag.result.reason", text(&answer.reason.as_str().to_lowercase())),
    ];
    if let Some(variant) = answer.variant {
        attributes.push(("feature_flag.result.variant", text(variant)));
    }
    if let Some(version) = answer.flag_version {
        attributes.push(("feature_flag.version", text(&version.to_string())));
    }
    if let Some(user) = shown.user_id.as_deref() {
        attributes.push(("feature_flag.context.id", text(user)));
    }
    if let Some(code) = answer.error_code {
        attributes.push(("error.type", text(&error_type(code))));
        attributes.extend(answer.error_message.as_deref().map(|message| ("error.message", text(message))));
    }
    attributes
}

/// The conventions' name of an error: in lower case.
fn error_type(code: ErrorCode) -> String {
    code.as_str().to_lowercase()
}
