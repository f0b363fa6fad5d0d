//! Synthetic flags and requests: the mix described in docs/benchmarks.md.

use std::sync::Arc;

use serde_json::json;

use flagstream::flag::value::{Lookup, answer};
use flagstream::flag::{Answer, CompileError, CompiledFlag, FlagChange, Moment, Snapshot};
use flagstream::message::event::{EventFrame, EventSource, Timestamp};
use flagstream::message::request::{Ask, Request};

pub const ENVIRONMENT: &str = "production";
const REGIONS: [&str; 4] = ["us-west", "us-east", "eu-central", "ap-south"];
const TIERS: [&str; 3] = ["free", "premium", "enterprise"];
/// Number of different users. Their ids are the record keys.
const USERS: u64 = 100_000;

/// The definition of flag `number`: in turn a boolean with two constraints and a 50 % rollout, a string with variants,
/// and a plain rollout.
pub fn definition(number: usize) -> serde_json::Value {
    let rollout = |percentage: &str| json!({"rollout": percentage, "stickiness": "default", "groupId": flag_name(number)});
    match number % 3 {
        0 => targeted(number),
        1 => json!({"name": flag_name(number), "type": "experiment", "enabled": true, "strategies": [
            {"name": "flexibleRollout", "constraints": [], "parameters": rollout("100")}], "variants": [
            {"name": "light", "weight": 500, "stickiness": "default", "payload": {"type": "string", "value": "light"}},
            {"name": "dark", "weight": 500, "stickiness": "default", "payload": {"type": "string", "value": "dark"}}]}),
        _ => json!({"name": flag_name(number), "type": "release", "enabled": true, "strategies": [
            {"name": "flexibleRollout", "constraints": [], "parameters": rollout("25")}]}),
    }
}

/// A boolean flag with two constraints and a 50 % rollout.
pub fn targeted(number: usize) -> serde_json::Value {
    let constraints = json!([
        {"contextName": "region", "operator": "IN", "values": ["us-west", "us-east", "eu-central"]},
        {"contextName": "subscription_tier", "operator": "NOT_IN", "values": ["free"]},
    ]);
    let rollout = json!({"rollout": "50", "stickiness": "default", "groupId": flag_name(number)});
    json!({"name": flag_name(number), "type": "release", "enabled": true, "strategies": [
        {"name": "flexibleRollout", "constraints": constraints, "parameters": rollout}]})
}

pub fn flag_name(number: usize) -> String {
    format!("bench-flag-{number}")
}

pub fn version(number: usize) -> u64 {
    1_768_473_000_000 + number as u64
}

/// A snapshot with `count` flags.
pub fn snapshot(count: usize) -> Result<Snapshot, CompileError> {
    snapshot_of(count, definition)
}

/// A snapshot with `count` flags of one kind.
pub fn snapshot_of(
    count: usize,
    definition: fn(usize) -> serde_json::Value,
) -> Result<Snapshot, CompileError> {
    let flags = (0..count).map(|number| recorded(number, version(number), &definition(number)).map(Arc::new));
    let changes = flags.map(|flag| flag.map(FlagChange::Set)).collect::<Result<Vec<_>, _>>()?;
    Ok(Snapshot::default().with(changes))
}

/// Flag `number` with the record that it was read from, as the service keeps it.
pub fn recorded(
    number: usize,
    version: u64,
    definition: &serde_json::Value,
) -> Result<CompiledFlag, CompileError> {
    let record = json!({"environment": ENVIRONMENT, "flag_name": flag_name(number), "source": "unleash",
        "version": version, "checksum": "", "definition": definition});
    let mut flag = CompiledFlag::compile(ENVIRONMENT, version, &definition.to_string())?;
    flag.record = Some(record.to_string().into_bytes().into());
    Ok(flag)
}

/// Evaluates a flag of a request. `None` if the snapshot lacks the load's environment.
pub fn evaluate<'a>(
    snapshot: &'a Snapshot,
    request: &'a Request<'_>,
    ask: &'a Ask<'_>,
) -> Option<Answer<'a>> {
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "bench", app_name: "bench" };
    let served = snapshot.environment(ENVIRONMENT)?;
    let lookup =
        served.evaluate(&ask.flag, &request.context, &moment).map_or(Lookup::NotFound, Lookup::Found);
    Some(answer(&ask.flag, lookup, ask.value_type, ask.default.as_ref()))
}

/// The frame of the event of a flag of a request.
pub fn frame<'a>(
    snapshot: &Snapshot,
    request: &'a Request<'_>,
    ask: &Ask<'_>,
    event_id: &'a str,
    evaluated_at: Timestamp<'a>,
    source: EventSource<'a>,
) -> EventFrame<'a> {
    EventFrame {
        event_id,
        request_id: request.request_id.as_deref(),
        user_id: request.context.user_id.as_deref(),
        session_id: request.context.session_id.as_deref(),
        environment: ENVIRONMENT,
        context: &request.context_json,
        attributes: None,
        evaluated_at,
        flags_version: snapshot.version(),
        value_type: Some(ask.value_type),
        evaluation_ns: None,
        source,
    }
}

/// The flag and the context of a request.
#[derive(Debug)]
pub struct Asker {
    pub flag: usize,
    pub user: String,
    pub session: u64,
    pub region: &'static str,
    pub tier: &'static str,
    pub app_version: u64,
}

/// The flag and the context of request `number`, among `flags` flags.
pub fn asker(number: u64, flags: usize) -> Asker {
    // Multiplicative hashing: combines all flags, users, regions and tiers at a lower cost than a random generator.
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
    Asker {
        flag: (mixed % flags as u64) as usize,
        user: format!("user-{}", (mixed >> 8) % USERS),
        session: mixed % 1_000,
        region: REGIONS[(mixed % 4) as usize],
        tier: TIERS[(mixed % 3) as usize],
        app_version: mixed % 20,
    }
}

/// Request `number` for one of `flags` flags: key and body of about 250 bytes. The body begins with `{"request_id":"`
/// and `stamp` as 20 digits.
pub fn request(number: u64, flags: usize, stamp: u64) -> (String, String) {
    let Asker { flag, user, session, region, tier, app_version } = asker(number, flags);
    let default = if flag % 3 == 1 { "\"auto\"" } else { "false" };
    let body = format!(
        "{{\"request_id\":\"{stamp:020}\",\"flag_name\":\"{}\",\"user_id\":\"{user}\",\"session_id\":\"s-{session}\",\
         \"context\":{{\"region\":\"{region}\",\"subscription_tier\":\"{tier}\",\"app_version\":\"4.2.{app_version}\"}},\
         \"default_value\":{default},\"environment\":\"{ENVIRONMENT}\"}}",
        flag_name(flag),
    );
    (user, body)
}
