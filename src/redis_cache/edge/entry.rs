//! Values of the edge layers.

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
        entries.push(list(asked, scope)?);
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
    let of_state = flag.state_cacheability(scope.now_ms);
    if with_data && !matches!(of_state, Cacheability::Never(_)) {
        let mut value = br#"{"flag_version":"#.to_vec();
        write_integer(&mut value, flag.version);
        value.push(b',');
        write_flag_data(&mut value, flag, scope.now_ms);
        value.push(b'}');
        let key = key::data(&asked.environment, &asked.flag);
        let entry = entry(asked, key, value, flag.version);
        entries.push(Entry { life: Some(DATA_LIFE), cacheability: of_state, ..entry });
    }
    // The keys have the user only, and not the attributes that belong to the outcome.
    if scope.is_completed(flags, flag) {
        return Err("attributes");
    }
    let outcome = subject.entry(scope, at)?;
    let mut value = outcome.value;
    if asked.layer == Layer::Endpoint {
        value.pop();
        value.push(b',');
        write_flag_data(&mut value, flag, scope.now_ms);
        value.push(b'}');
    }
    let life = Some(asked.layer.life());
    entries.push(Entry {
        life,
        cacheability: outcome.cacheability.and(of_state),
        ..entry(asked, asked.key(), value, outcome.basis)
    });
    Ok(())
}

/// Appends `"flag_data":{…}`, as of `now_ms`.
pub fn write_flag_data(out: &mut Vec<u8>, flag: &CompiledFlag, now_ms: i64) {
    out.extend_from_slice(br#""flag_data":{"#);
    write_state(out, flag, now_ms);
    out.push(b'}');
}

/// The list of all flags. It is valid until the first kill switch in it expires.
fn list(asked: &EdgeRequest, scope: &EvaluationScope<'_>) -> Result<Entry, Reason> {
    let (snapshot, now_ms) = (scope.snapshot, scope.now_ms);
    let flags = snapshot.environment(&asked.environment).into_iter().flat_map(|flags| flags.iter());
    let states = flags.map(|flag| flag.state_cacheability(now_ms));
    let cacheability = states.fold(Cacheability::UntilChanged, Cacheability::and);
    if let Cacheability::Never(why) = cacheability {
        return Err(why);
    }
    let mut value = br#"{"flags_version":"#.to_vec();
    write_integer(&mut value, snapshot.version());
    value.push(b',');
    write_flags(&mut value, snapshot, &asked.environment, now_ms, |_| true);
    value.push(b'}');
    if value.len() > LIST_BYTES_MAX {
        return Err("large_value");
    }
    let entry = entry(asked, asked.key(), value, snapshot.version());
    Ok(Entry { life: Some(asked.layer.life()), cacheability, ..entry })
}

/// Appends `"flags":[…]` with the flags for which `is_shown` holds, sorted by name, as of `now_ms`.
pub fn write_flags(
    out: &mut Vec<u8>,
    snapshot: &Snapshot,
    environment: &str,
    now_ms: i64,
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
        write_state(out, flag, now_ms);
        out.push(b'}');
    }
    out.push(b']');
}

fn write_state(out: &mut Vec<u8>, flag: &CompiledFlag, now_ms: i64) {
    let summary = flag.summary();
    let killed = flag.is_killed(now_ms);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use chrono::{DateTime, TimeDelta, Utc};
    use serde_json::{Value, json};

    use super::*;
    use crate::flag::{FlagChange, Moment};

    const NOW: &str = "2026-01-15T10:30:00Z";

    /// Two flags, one of them with a kill switch in this state until this time.
    fn snapshot(state: &str, expires_at: Option<DateTime<Utc>>) -> Snapshot {
        let flag = |name: &str| {
            let text = json!({"name": name, "enabled": true}).to_string();
            CompiledFlag::compile("e", 5, &text).unwrap()
        };
        let switch = json!({"environment": "e", "flag_name": "killed", "state": state, "version": 9, "actor": "a",
            "reason": "r", "changed_at": NOW, "expires_at": expires_at, "change_id": uuid::Uuid::nil()});
        let killed = flag("killed").switched(Arc::new(serde_json::from_value(switch).unwrap()));
        Snapshot::default().with([killed, flag("other")].map(|flag| FlagChange::Set(Arc::new(flag))))
    }

    /// Keys of the cached values of all layers, with the cacheability of each, and whether it shows the flag as killed.
    fn cached(flag: &str, snapshot: &Snapshot) -> Vec<(Layer, Cacheability, bool)> {
        let now = DateTime::parse_from_rfc3339(NOW).unwrap();
        let moment = Moment { now: NOW, hostname: "host", app_name: "app" };
        let scope = EvaluationScope { snapshot, moment, now_ms: now.timestamp_millis(), has_tables: false };
        let mut all = Vec::new();
        for layer in [Layer::Check, Layer::Endpoint, Layer::List] {
            let asked = EdgeRequest {
                layer,
                environment: "e".to_owned(),
                flag: if layer == Layer::List { String::new() } else { flag.to_owned() },
                user: (layer != Layer::List).then(|| "u".to_owned()),
            };
            let mut entries = Vec::new();
            let with_data = layer == Layer::Endpoint;
            if add_entries(&mut entries, &asked, with_data, &scope, NOW).is_ok() {
                assert_eq!(entries.len(), if with_data { 2 } else { 1 });
            }
            all.extend(entries.into_iter().map(|entry| {
                let value: Value = serde_json::from_slice(&entry.value).unwrap();
                (layer, entry.cacheability, value.to_string().contains(r#""killed":true"#))
            }));
        }
        all
    }

    #[test]
    fn no_value_with_a_kill_switch_outlives_it() {
        let now = DateTime::parse_from_rfc3339(NOW).unwrap().to_utc();
        let until = now + TimeDelta::seconds(5);
        let is = |cached: &[(Layer, Cacheability, bool)], expected: Cacheability, killed: bool| {
            assert_eq!(cached.len(), 4, "{cached:?}");
            for (layer, cacheability, shows_killed) in cached {
                assert_eq!(*cacheability, expected, "{layer:?}");
                // A check shows only that the flag is off.
                assert!(*shows_killed == killed || *layer == Layer::Check, "{layer:?}");
            }
        };
        let ends = Cacheability::UntilTime(until.timestamp_millis());
        is(&cached("killed", &snapshot("killed", Some(until))), ends, true);
        is(&cached("killed", &snapshot("killed", None)), Cacheability::UntilChanged, true);
        is(
            &cached("killed", &snapshot("killed", Some(now - TimeDelta::seconds(5)))),
            Cacheability::UntilChanged,
            false,
        );
        is(&cached("killed", &snapshot("lifted", None)), Cacheability::UntilChanged, false);
        // Of another flag only the list depends on it.
        let other = cached("other", &snapshot("killed", Some(until)));
        let ending: Vec<_> = other.iter().filter(|(_, cacheability, _)| *cacheability == ends).collect();
        assert_eq!(ending, [&(Layer::List, ends, true)]);
        // So near its end nothing is cached, as clocks may disagree.
        assert_eq!(cached("killed", &snapshot("killed", Some(now))), []);
    }
}
