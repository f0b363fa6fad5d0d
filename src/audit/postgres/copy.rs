//! Evaluations in Postgres' binary `COPY` format.

use super::super::evaluation::{Evaluation, Source};

macro_rules! column_names {
    () => {
        "flag_name, user_id, context, result, variant, evaluated_value, environment, evaluated_at, \
         evaluation_reason, event_id, request_id, session_id, enabled, default_value, error_code, error_message, \
         flag_version, source_topic, source_partition, source_offset, source_index, source_api, amended, \
         flags_version, value_type, audit_block, attributes"
    };
}

/// Columns of a row, in this order.
pub const COLUMN_NAMES: &str = column_names!();
pub const STATEMENT: &str =
    concat!("COPY feature_flag_evaluations (", column_names!(), ") FROM STDIN (FORMAT binary)");

pub const COLUMNS: i16 = 27;
/// Signature, no flags and no header extension.
pub const HEADER: &[u8] = b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0";
pub const TRAILER: &[u8] = &(-1i16).to_be_bytes();
/// Microseconds from 1970 to 2000, the epoch of Postgres' timestamps.
pub const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Version byte of the binary `jsonb` format, in front of the JSON text.
pub const JSONB_VERSION: u8 = 1;

/// Appends one row.
pub fn row(evaluation: &Evaluation<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&COLUMNS.to_be_bytes());
    text(out, Some(&evaluation.flag_name));
    text(out, evaluation.user_id.as_deref());
    json(out, Some(&evaluation.context));
    match evaluation.result {
        Some(result) => boolean(out, result),
        None => null(out),
    }
    text(out, evaluation.variant.as_deref());
    json(out, evaluation.evaluated_value.as_deref());
    text(out, Some(&evaluation.environment));
    number(out, Some(evaluation.evaluated_at.saturating_sub(EPOCH_MICROS)));
    text(out, Some(&evaluation.reason));
    field(out, evaluation.event_id.as_bytes());
    text(out, evaluation.request_id.as_deref());
    text(out, evaluation.session_id.as_deref());
    boolean(out, evaluation.enabled);
    json(out, evaluation.default_value.as_deref());
    text(out, evaluation.error_code.as_deref());
    text(out, evaluation.error_message.as_deref());
    number(out, evaluation.flag_version);
    source(out, &evaluation.source);
    boolean(out, evaluation.amended);
    number(out, evaluation.flags_version);
    text(out, evaluation.value_type.as_deref());
    number(out, evaluation.audit_block);
    json(out, evaluation.attributes.as_deref());
}

fn source(out: &mut Vec<u8>, source: &Source<'_>) {
    match source {
        Source::Kafka { topic, partition, offset, index, .. } => {
            text(out, Some(topic));
            field(out, &partition.to_be_bytes());
            number(out, Some(*offset));
            field(out, &index.to_be_bytes());
            null(out);
        }
        Source::Api(api) => {
            (0..4).for_each(|_| null(out));
            text(out, Some(api));
        }
        Source::Unknown => (0..5).for_each(|_| null(out)),
    }
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a field's length. It always fits, because no Kafka record is larger than `i32::MAX` bytes.
fn length(out: &mut Vec<u8>, bytes: usize) {
    out.extend_from_slice(&i32::try_from(bytes).unwrap_or(i32::MAX).to_be_bytes());
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1i32).to_be_bytes());
}

fn text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => field(out, text.as_bytes()),
        None => null(out),
    }
}

fn json(out: &mut Vec<u8>, json: Option<&str>) {
    let Some(json) = json else { return null(out) };
    length(out, json.len() + 1);
    out.push(JSONB_VERSION);
    out.extend_from_slice(json.as_bytes());
}

fn boolean(out: &mut Vec<u8>, boolean: bool) {
    field(out, &[u8::from(boolean)]);
}

fn number(out: &mut Vec<u8>, number: Option<i64>) {
    match number {
        Some(number) => field(out, &number.to_be_bytes()),
        None => null(out),
    }
}
