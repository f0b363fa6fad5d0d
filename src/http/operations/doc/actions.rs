//! Parameters and bodies of dead letters, replays, the change log and erasures.
#![allow(dead_code)]

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterQuery {
    /// Code of the rejection, such as `NOT_JSON`.
    code: Option<String>,
    /// Topic of the rejected record.
    source: Option<String>,
    #[param(format = DateTime)]
    from: Option<String>,
    #[param(format = DateTime)]
    to: Option<String>,
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
}

#[derive(ToSchema)]
pub struct DeadLetterList {
    dead_letters: Vec<DeadLetterBody>,
    /// Whether older dead letters were left out.
    truncated: bool,
}

#[derive(ToSchema)]
pub struct DeadLetterBody {
    partition: i32,
    offset: i64,
    #[schema(format = DateTime)]
    written_at: String,
    code: String,
    message: String,
    source: DeadLetterSource,
    /// Null without the scope `audit`, like `headers` and `body`.
    #[schema(required)]
    key: Option<String>,
    /// Key in hex, if it is not UTF-8.
    #[schema(nullable = false)]
    key_hex: Option<String>,
    #[schema(required)]
    headers: Option<BTreeMap<String, Option<String>>>,
    #[schema(required)]
    body: Option<String>,
    /// Body in hex, if it is not UTF-8.
    #[schema(nullable = false)]
    body_hex: Option<String>,
    /// Whether the dead letter has no body, because it was too large.
    body_omitted: bool,
    body_bytes: usize,
}

#[derive(ToSchema)]
pub struct DeadLetterSource {
    topic: String,
    partition: i32,
    offset: i64,
    /// Position of the rejected flag among the request's flags.
    #[schema(required)]
    index: Option<u32>,
}

#[derive(ToSchema)]
pub struct ReplayDeadLetters {
    #[schema(min_items = 1, max_items = 100)]
    items: Vec<ReplayDeadLetter>,
    /// Sends whole requests even if only one of their flags was rejected.
    whole: Option<bool>,
    /// Sends records that a tap rejected to the source of the tap. All consumers of that topic read them again.
    into_source: Option<bool>,
    dry_run: Option<bool>,
}

#[derive(ToSchema)]
pub struct ReplayDeadLetter {
    #[schema(minimum = 0)]
    partition: i32,
    #[schema(minimum = 0)]
    offset: i64,
    /// Body to send instead, as JSON text. For an Avro topic of requests or conversions it is encoded in Avro.
    body: Option<String>,
}

#[derive(ToSchema)]
pub struct ReplayedDeadLetters {
    outcomes: Vec<ReplayedDeadLetter>,
}

#[derive(ToSchema)]
pub struct ReplayedDeadLetter {
    partition: i32,
    offset: i64,
    /// `sent`, `ready` (dry run), or `kept`.
    state: String,
    /// Position of the new record in its topic.
    #[schema(required)]
    sent: Option<SentRecord>,
    /// Reason why the record was not sent, such as `still_refused`.
    #[schema(required)]
    reason: Option<String>,
    #[schema(required)]
    message: Option<String>,
}

#[derive(ToSchema)]
pub struct SentRecord {
    partition: i32,
    offset: i64,
}

/// Replay to start. Absent `from` and `to`: the last 24 hours.
#[derive(ToSchema)]
pub struct ReplayRequestBody {
    #[schema(format = DateTime)]
    from: Option<String>,
    #[schema(format = DateTime)]
    to: Option<String>,
    /// Evaluates with the versions in force at this time.
    #[schema(format = DateTime)]
    as_of: Option<String>,
    /// Evaluates with these flags: in the format of Unleash's client API, or one local flag or a list of them.
    with: Option<Value>,
    environment: Option<String>,
    #[schema(max_items = 1000)]
    flags: Option<Vec<String>>,
}

#[derive(ToSchema)]
pub struct ReplayList {
    replays: Vec<ReplayBody>,
}

#[derive(ToSchema)]
pub struct ReplayBody {
    id: String,
    /// `running`, `done`, `failed` or `cancelled`.
    state: String,
    actor: String,
    instance: String,
    request: Map<String, Value>,
    /// Evaluations that were read.
    evaluations: i64,
    /// Part of the period that was read, from 0 to 1.
    progress: f64,
    #[schema(required)]
    error: Option<String>,
    #[schema(format = DateTime)]
    started_at: String,
    #[schema(required, format = DateTime)]
    ended_at: Option<String>,
    /// Counts and examples, with the members of a preview; null until the replay is done, and in lists.
    #[schema(required)]
    report: Option<Map<String, Value>>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ActivityQuery {
    /// Part of the actor's name.
    actor: Option<String>,
    #[param(inline)]
    kind: Option<ActivityKind>,
    environment: Option<String>,
    #[param(format = DateTime)]
    from: Option<String>,
    /// End of the period, exclusive. For the next page: `changed_at` of the last change.
    #[param(format = DateTime)]
    to: Option<String>,
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ActivityKind {
    Flag,
    KillSwitch,
    /// Detected in Unleash or in a file.
    Source,
    Token,
    Experiment,
    Erasure,
    Retention,
    DeadLetter,
    Replay,
}

#[derive(ToSchema)]
pub struct ActivityList {
    changes: Vec<ActivityEntry>,
}

#[derive(ToSchema)]
pub struct ActivityEntry {
    kind: ActivityKind,
    /// Name of the flag or experiment, id of the token, or position of the dead letter.
    subject: String,
    #[schema(required)]
    environment: Option<String>,
    action: String,
    actor: String,
    #[schema(required)]
    reason: Option<String>,
    #[schema(required)]
    version: Option<i64>,
    #[schema(required)]
    before: Option<Map<String, Value>>,
    #[schema(required)]
    after: Option<Map<String, Value>>,
    #[schema(format = DateTime)]
    changed_at: String,
}

#[derive(ToSchema)]
pub struct ErasureRequestBody {
    #[schema(min_length = 1, max_length = 4096)]
    user_id: String,
    /// Keeps the evaluations, but removes everything that identifies the user.
    anonymise: Option<bool>,
    dry_run: Option<bool>,
}

#[derive(ToSchema)]
pub struct ErasureBody {
    dry_run: bool,
    /// Id in the change log; null for a dry run.
    #[schema(required)]
    erasure_id: Option<String>,
    /// Evaluations, exposures and conversions. A dry run counts at most 100,000 evaluations.
    rows: u64,
    /// Entries of the change log from which the user was removed.
    changes: u64,
    versions: u64,
    /// Flags whose rules name the user. They are not changed.
    flags_in_force: Vec<String>,
    /// Keys removed from Redis.
    keys: u64,
    /// Rows removed from the table of users' attributes: one, also if there was none; 0 if attributes are not enabled.
    attributes: u64,
    /// Places that may still contain data about the user.
    kept: Vec<ErasureKept>,
}

#[derive(ToSchema)]
pub struct ErasureKept {
    place: String,
    why: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AttributeTableQuery {
    /// Table of the row; by default `user`.
    table: Option<String>,
}

#[derive(ToSchema)]
pub struct AttributeRow {
    table: String,
    key: String,
    attributes: Map<String, Value>,
    /// Position of the row's record in the topic of the table.
    #[schema(minimum = 0)]
    partition: i32,
    #[schema(minimum = 0)]
    offset: i64,
}

#[derive(ToSchema)]
pub struct AttributesWritten {
    table: String,
    key: String,
    /// Position of the record in the topic of the table.
    #[schema(minimum = 0)]
    partition: i32,
    #[schema(minimum = 0)]
    offset: i64,
    /// Whether the change is in the table of this instance.
    in_force: bool,
}
