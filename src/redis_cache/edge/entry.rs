//! Values of the edge layers.

use chrono::Utc;

use crate::flag::{Cacheability, CompiledFlag, Snapshot};
use crate::message::event::{member, write_integer};
use crate::message::json::write_string;
use crate::redis_cache::key;
use crate::redis_cache::subject::{Entry, EvaluationScope, Keys, Reason, Subject};

use super::{DATA_LIFE, EdgeRequest, Layer};

/// Largest list that is cached, in bytes. A larger one would block Redis for too long.
const LIST_BYTES_MAX: usize = 512 << 10;

/// Adds the values for a request. An error is the reason why a value is missing.
pub(super) fn add_entries(
    entries: &mut Vec<Entry>,
    asked: &EdgeRequest,
    with_data: bool,
    scope: &EvaluationScope<'_>,
    at: &str,
) -> Result<(), Reason> {
    if asked.layer == Layer::List {
        entries.push(list(asked, scope.snapshot)?);
        return Ok(());
    }
    let subject = Subject {
        environment: &asked.environment,
        flag: &asked.flag,
        user: asked.user.as_deref(),
        session: None,
        context: "{}",
    };
    let flags = scope.snapshot.environment(&asked.environment).ok_or("unserved")?;
    let flag = flags.get(&asked.flag).ok_or("no_flag")?;
    if with_data {
        let mut value = br#"{"flag_version":"#.to_vec();
        write_integer(&mut value, flag.version);
        value.push(b',');
        write_flag_data(&mut value, flag);
        value.push(b'}');
        let key = key::data(&asked.environment, &asked.flag);
        entries.push(Entry { life: Some(DATA_LIFE), ..entry(asked, key, value, flag.version) });
    }
    let outcome = subject.entry(scope, at)?;
    let mut value = outcome.value;
    if asked.layer == Layer::Endpoint {
        value.pop();
        value.push(b',');
        write_flag_data(&mut value, flag);
        value.push(b'}');
    }
    let life = Some(asked.layer.life());
    entries.push(Entry {
        life,
        cacheability: outcome.cacheability,
        ..entry(asked, asked.key(), value, outcome.basis)
    });
    Ok(())
}

/// Appends `"flag_data":{…}`.
pub fn write_flag_data(out: &mut Vec<u8>, flag: &CompiledFlag) {
    out.extend_from_slice(br#""flag_data":{"#);
    write_state(out, flag);
    out.push(b'}');
}

fn list(asked: &EdgeRequest, snapshot: &Snapshot) -> Result<Entry, Reason> {
    let mut value = br#"{"flags_version":"#.to_vec();
    write_integer(&mut value, snapshot.version());
    value.push(b',');
    write_flags(&mut value, snapshot, &asked.environment, |_| true);
    value.push(b'}');
    if value.len() > LIST_BYTES_MAX {
        return Err("large_value");
    }
    Ok(Entry { life: Some(asked.layer.life()), ..entry(asked, asked.key(), value, snapshot.version()) })
}

/// Appends `"flags":[…]` with the flags for which `is_shown` holds, sorted by name.
pub fn write_flags(
    out: &mut Vec<u8>,
    snapshot: &Snapshot,
    environment: &str,
    is_shown: impl Fn(&CompiledFlag) -> bool,
) {
    let flags = snapshot.environment(environment).into_iter().flat_map(|flags| flags.iter());
    let mut flags: Vec<_> = flags.filter(|flag| is_shown(flag)).collect();
    flags.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    out.extend_from_slice(br#""flags":["#);
    for (index, flag) in flags.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"flag_name":"#);
        write_string(out, &flag.name);
        out.push(b',');
        write_state(out, flag);
        out.push(b'}');
    }
    out.push(b']');
}

fn write_state(out: &mut Vec<u8>, flag: &CompiledFlag) {
    let summary = flag.summary();
    let killed = flag.is_killed(Utc::now().timestamp_millis());
    let enabled = flag.is_switched_on() && !killed;
    let enabled: &[u8] = if enabled { br#""enabled":true"# } else { br#""enabled":false"# };
    out.extend_from_slice(enabled);
    if killed {
        out.extend_from_slice(br#","killed":true"#);
    }
    out.extend_from_slice(br#","rollout_percentage":"#);
    out.extend_from_slice(summary.rollout_percentage.to_string().as_bytes());
    out.extend_from_slice(br#","metadata":{"version":"#);
    write_integer(out, flag.version);
    member(out, "type", summary.kind.as_deref());
    member(out, "project", summary.project.as_deref());
    member(out, "description", summary.description.as_deref());
    out.extend_from_slice(if summary.stale { br#","stale":true"# } else { br#","stale":false"# });
    out.extend_from_slice(br#","variants":["#);
    for (index, variant) in flag.variants().iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, &variant.name);
    }
    out.extend_from_slice(b"]}");
}

fn entry(asked: &EdgeRequest, key: String, value: Vec<u8>, basis: u64) -> Entry {
    let mut member = b"[".to_vec();
    write_string(&mut member, &key);
    member.push(b']');
    Entry {
        place: asked.place(),
        keys: Keys { evaluation: key, plain: None },
        value,
        plain_value: Vec::new(),
        basis,
        cacheability: Cacheability::UntilChanged,
        life: None,
        member,
    }
}
