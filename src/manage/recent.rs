//! Changes of kill switches that are in force here but not in the change log yet, because the audit sink writes the log a
//! moment later.

use std::cmp::Reverse;

use ahash::AHashSet;
use serde_json::value::{RawValue, to_raw_value};

use crate::message::kill_switch::{KillSwitch, SwitchAction, SwitchState};
use crate::store::RecentSwitch;

use super::history::FlagChanged;

/// Source of an entry about a kill switch.
pub(super) const SOURCE: &str = "override";

/// Entry of the change log, with the id of the kill switch's change if it is one.
pub(super) type Logged = (Option<String>, FlagChanged);

/// Adds the `recent` changes that the log lacks to its latest entries, and returns the latest `limit` of all.
pub(super) fn merge(
    logged: Vec<Logged>,
    recent: &[RecentSwitch],
    limit: usize,
) -> Result<Vec<FlagChanged>, serde_json::Error> {
    let known: AHashSet<String> = logged.iter().filter_map(|(id, _)| id.clone()).collect();
    let mut changes: Vec<FlagChanged> = logged.into_iter().map(|(_, change)| change).collect();
    for change in recent.iter().filter(|change| !known.contains(&change.after.change_id.to_string())) {
        changes.push(entry(change)?);
    }
    // The order of the log's query.
    changes.sort_by_key(|change| Reverse((change.changed_at, change.revision.or(change.version))));
    changes.truncate(limit);
    Ok(changes)
}

/// The entry that the audit sink makes of a change.
fn entry(RecentSwitch { before, after }: &RecentSwitch) -> Result<FlagChanged, serde_json::Error> {
    let killed = |switch: &KillSwitch| (switch.state == SwitchState::Killed).then(|| switch.as_on());
    let json = |switch: Option<&KillSwitch>| -> Result<Option<Box<RawValue>>, serde_json::Error> {
        switch.and_then(killed).map(|position| to_raw_value(&position)).transpose()
    };
    Ok(FlagChanged {
        revision: None,
        version: i64::try_from(after.version).ok(),
        action: SwitchAction::of(after).as_str().to_owned(),
        source: SOURCE.to_owned(),
        actor: after.actor.clone(),
        reason: Some(after.reason.clone()),
        before: json(before.as_deref())?,
        after: json(Some(after))?,
        changed_at: after.changed_at,
    })
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::{DateTime, TimeDelta, Utc};
    use uuid::Uuid;

    use super::*;
    use crate::message::kill_switch::SERVICE_ACTOR;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    fn switch(second: i64, state: SwitchState, actor: &str) -> Arc<KillSwitch> {
        Arc::new(KillSwitch {
            environment: "e".to_owned(),
            flag_name: "f".to_owned(),
            state,
            version: second.unsigned_abs(),
            definition_version: None,
            actor: actor.to_owned(),
            reason: "why".to_owned(),
            changed_at: at(second),
            expires_at: None,
            change_id: Uuid::from_u128(second.unsigned_abs().into()),
        })
    }

    fn logged(second: i64, id: Option<&KillSwitch>) -> Logged {
        let change = FlagChanged {
            revision: id.is_none().then_some(7),
            version: Some(second),
            action: "logged".to_owned(),
            source: "local".to_owned(),
            actor: "a".to_owned(),
            reason: None,
            before: None,
            after: None,
            changed_at: at(second),
        };
        (id.map(|switch| switch.change_id.to_string()), change)
    }

    #[test]
    fn changes_that_the_log_lacks_are_added_in_their_place_and_others_are_not_repeated() {
        let killed = switch(10, SwitchState::Killed, "ann");
        let restored = switch(20, SwitchState::Lifted, "bob");
        let again = switch(30, SwitchState::Killed, "ann");
        let expired = switch(40, SwitchState::Lifted, SERVICE_ACTOR);
        let change = |before: Option<&Arc<KillSwitch>>, after: &Arc<KillSwitch>| RecentSwitch {
            before: before.cloned(),
            after: Arc::clone(after),
        };
        let recent = [
            change(None, &killed),
            change(Some(&killed), &restored),
            change(Some(&restored), &again),
            change(Some(&again), &expired),
        ];
        let log = || vec![logged(25, None), logged(10, Some(&killed)), logged(5, None)];
        let merged = merge(log(), &recent, 10).unwrap();
        let shown: Vec<_> =
            merged.iter().map(|change| (change.changed_at.timestamp(), change.action.as_str())).collect();
        let expected = [
            (40, "expired"),
            (30, "killed"),
            (25, "logged"),
            (20, "restored"),
            (10, "logged"),
            (5, "logged"),
        ];
        assert_eq!(shown, expected);
        let text = |value: &Option<Box<RawValue>>| value.as_ref().map(|value| value.get().to_owned());
        let position = serde_json::to_string(&killed.as_on()).unwrap();
        assert_eq!((text(&merged[3].before), text(&merged[3].after)), (Some(position), None));
        assert_eq!(
            (text(&merged[1].before), merged[1].after.is_some()),
            (None, true),
            "a lifted switch is off"
        );
        assert_eq!(merge(log(), &recent, 2).unwrap().len(), 2);
        assert_eq!(merge(log(), &[], 10).unwrap().len(), 3);
    }
}
