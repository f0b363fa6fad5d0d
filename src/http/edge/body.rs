//! Response bodies of the edge API, as JSON.

use std::sync::Arc;

use chrono::Utc;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::auth::{FlagFacts, Restrictions};
use crate::flag::{CompiledFlag, ErrorCode, Snapshot};
use crate::http::call::{Answered, Call};
use crate::message::event::{member, write_answer, write_integer};
use crate::message::json::write_string;
use crate::redis_cache::edge::{EdgeRequest, Found, Layer, write_flag_data, write_flags};

/// A response body and its properties.
#[derive(Debug)]
pub(super) struct EdgeAnswer {
    pub(super) body: Vec<u8>,
    pub(super) flags_version: u64,
    pub(super) is_hit: bool,
    /// Whether the flag exists.
    pub(super) is_known: bool,
    /// Whether the environment is served and has no such flag.
    pub(super) is_unknown: bool,
}

#[derive(Deserialize)]
struct KeptFlag<'v> {
    #[serde(borrow)]
    flag_data: Option<&'v RawValue>,
}

#[derive(Deserialize)]
struct KeptList<'v> {
    flags_version: u64,
    #[serde(borrow)]
    flags: &'v RawValue,
}

/// Builds the response to an evaluation.
pub(super) fn evaluated(
    call: &Call<'_>,
    asked: &EdgeRequest,
    answered: &Answered<'_>,
    found: &Found,
) -> EdgeAnswer {
    let answer = &answered.answer;
    let is_hit = answered.was_kept;
    let mut out = Vec::with_capacity(320);
    out.extend_from_slice(br#"{"flag_name":"#);
    write_string(&mut out, &asked.flag);
    write_answer(&mut out, answer);
    if asked.layer == Layer::Endpoint {
        out.push(b',');
        flag_data(&mut out, call, asked, is_hit, found);
    }
    member(&mut out, "environment", Some(call.environment));
    member(&mut out, "event_id", Some(answered.event_id()));
    member(&mut out, "evaluated_at", Some(&call.now));
    end(&mut out, is_hit);
    EdgeAnswer {
        body: out,
        flags_version: call.flags_version,
        is_hit,
        is_known: is_hit || answered.outcome.is_some(),
        is_unknown: answer.error_code == Some(ErrorCode::FlagNotFound),
    }
}

/// Writes the state of the flag: the one cached with the answer, else the one cached for the flag alone, else the one
/// in force.
fn flag_data(out: &mut Vec<u8>, call: &Call<'_>, asked: &EdgeRequest, is_hit: bool, found: &Found) {
    let with_hit = found.value.as_deref().filter(|_| is_hit);
    let with_hit = with_hit.and_then(|value| serde_json::from_slice::<KeptFlag<'_>>(value).ok()?.flag_data);
    let in_force = call.all_flags().and_then(|flags| flags.get(&asked.flag));
    // The cached state was read before this request's snapshot was taken, or was written by an instance that is ahead.
    // It must be of the same version as the answer of this instance.
    let alone = found.flag_data.as_ref();
    let alone = alone.filter(|(version, _)| in_force.is_none_or(|flag| *version == flag.version));
    if let Some(data) = with_hit.or(alone.map(|(_, data)| data.as_ref())) {
        out.extend_from_slice(br#""flag_data":"#);
        out.extend_from_slice(data.get().as_bytes());
    } else if let Some(flag) = in_force {
        write_flag_data(out, flag, Utc::now().timestamp_millis());
    } else {
        out.extend_from_slice(br#""flag_data":null"#);
    }
}

/// Builds the response to a change of a flag.
pub(super) fn updated(flag: Option<&Arc<CompiledFlag>>, name: &str, environment: &str) -> Vec<u8> {
    let mut out = br#"{"flag_name":"#.to_vec();
    write_string(&mut out, name);
    out.push(b',');
    match flag {
        Some(flag) => write_flag_data(&mut out, flag, Utc::now().timestamp_millis()),
        None => out.extend_from_slice(br#""flag_data":null"#),
    }
    member(&mut out, "environment", Some(environment));
    out.push(b'}');
    out
}

/// Builds the list of an environment's flags that the restrictions allow.
pub(super) fn list(snapshot: &Snapshot, asked: &EdgeRequest, within: &Restrictions) -> Vec<u8> {
    let mut out = b"{".to_vec();
    let is_within = |flag: &CompiledFlag| within.check(&FlagFacts::from(flag)).is_ok();
    write_flags(&mut out, snapshot, &asked.environment, Utc::now().timestamp_millis(), is_within);
    end_list(&mut out, asked, snapshot.version(), false);
    out
}

/// Builds the list from its cached form, and returns its version. `None` if the cached form is invalid.
pub(super) fn kept_list(kept: &[u8], asked: &EdgeRequest) -> Option<(Vec<u8>, u64)> {
    let kept: KeptList<'_> = serde_json::from_slice(kept).ok()?;
    let mut out = br#"{"flags":"#.to_vec();
    out.extend_from_slice(kept.flags.get().as_bytes());
    end_list(&mut out, asked, kept.flags_version, true);
    Some((out, kept.flags_version))
}

fn end_list(out: &mut Vec<u8>, asked: &EdgeRequest, flags_version: u64, is_hit: bool) {
    member(out, "environment", Some(&asked.environment));
    out.extend_from_slice(br#","flags_version":"#);
    write_integer(out, flags_version);
    end(out, is_hit);
}

fn end(out: &mut Vec<u8>, is_hit: bool) {
    member(out, "_cache", Some(if is_hit { "hit" } else { "miss" }));
    out.push(b'}');
}
