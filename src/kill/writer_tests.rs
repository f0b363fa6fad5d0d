#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

fn pending(action: Action, definition_version: Option<u64>) -> PendingChange {
    PendingChange {
        environment: "dev".to_owned(),
        flag: "a".to_owned(),
        action,
        actor: "ann".to_owned(),
        reason: "it burns".to_owned(),
        change_id: Uuid::now_v7(),
        definition_version,
        seen_version: 0,
        lost: None,
    }
}

fn written(pending: &PendingChange, before: Option<&KillSwitch>, now: DateTime<Utc>) -> Option<KillSwitch> {
    match pending.next(before, before.map_or(10, |before| before.version + 1), now) {
        NextWrite::Switch(switch, _) => Some(switch),
        NextWrite::Nothing | NextWrite::Tombstone => None,
    }
}

#[test]
fn a_switch_is_lifted_once_and_expires_once() {
    let now = Utc::now();
    let expires_at = Some(now + TimeDelta::seconds(5));
    let killed = written(&pending(Action::Kill { expires_at }, Some(3)), None, now).unwrap();
    assert!(killed.is_on(now) && !killed.is_on(now + TimeDelta::seconds(5)));
    assert!(written(&pending(Action::Expire, Some(3)), Some(&killed), now).is_none());
    let later = now + TimeDelta::seconds(5);
    // A switch that has expired cannot be restored, and its expiry is recorded only once.
    assert!(written(&pending(Action::Restore, Some(3)), Some(&killed), later).is_none());
    let expired = written(&pending(Action::Expire, Some(3)), Some(&killed), later).unwrap();
    assert_eq!((expired.state, expired.actor.as_str()), (SwitchState::Lifted, SERVICE_ACTOR));
    assert!(written(&pending(Action::Expire, Some(3)), Some(&expired), later).is_none());
    let restored = written(&pending(Action::Restore, Some(3)), Some(&killed), now).unwrap();
    assert_eq!((restored.state, restored.version), (SwitchState::Lifted, 11));
    assert!(written(&pending(Action::Restore, Some(3)), Some(&restored), now).is_none());
    assert!(written(&pending(Action::Restore, Some(3)), None, now).is_none());
}

#[test]
fn a_definition_of_a_lower_version_that_the_writer_did_not_know_renews_the_switch() {
    let now = Utc::now();
    let killed = written(&pending(Action::Kill { expires_at: None }, Some(3)), None, now).unwrap();
    for (definition, renewed) in
        [(None, false), (Some(3), false), (Some(9), true), (Some(10), true), (Some(11), false)]
    {
        let switch = written(&pending(Action::Renew, definition), Some(&killed), now);
        assert_eq!(switch.is_some(), renewed, "{definition:?}");
        if let Some(switch) = switch {
            assert!(switch.is_on(now) && switch.version > killed.version);
            assert_eq!((switch.change_id, switch.definition_version), (killed.change_id, definition));
        }
    }
}

#[test]
fn a_lifted_switch_is_forgotten_when_its_version_no_longer_matters() {
    let now = Utc::now();
    let killed = written(&pending(Action::Kill { expires_at: None }, Some(3)), None, now).unwrap();
    let lifted = written(&pending(Action::Restore, Some(3)), Some(&killed), now).unwrap();
    let forgotten = |switch: &KillSwitch, definition, now| {
        matches!(pending(Action::Forget, definition).next(Some(switch), 99, now), NextWrite::Tombstone)
    };
    assert!(!forgotten(&lifted, Some(3), now) && !forgotten(&lifted, None, now));
    assert!(forgotten(&lifted, Some(12), now) && forgotten(&lifted, None, now + TimeDelta::days(2)));
    assert!(!forgotten(&killed, Some(12), now + TimeDelta::days(2)));
}

#[test]
fn a_switch_that_its_topic_has_lost_is_reinstated_with_a_new_version_and_only_once() {
    let now = Utc::now();
    let killed = written(&pending(Action::Kill { expires_at: None }, Some(3)), None, now).unwrap();
    let reinstate = PendingChange { lost: Some(killed.clone()), ..pending(Action::Reinstate, Some(3)) };
    let NextWrite::Switch(again, action) = reinstate.next(None, 20, now) else {
        panic!("nothing is written")
    };
    assert_eq!((again.version, action), (20, None));
    assert_eq!(KillSwitch { version: killed.version, ..again.clone() }, killed);
    assert!(written(&reinstate, Some(&again), now).is_none());
    assert!(written(&pending(Action::Reinstate, Some(3)), None, now).is_none(), "nothing was lost");
}

/// A topic with this many switches of other flags in force, lifted, and expired but not recorded as lifted yet.
fn topic([on, lifted, expired]: [usize; 3], now: DateTime<Utc>) -> TopicContents {
    let on_switch = written(&pending(Action::Kill { expires_at: None }, None), None, now).unwrap();
    let lifted_switch = written(&pending(Action::Restore, None), Some(&on_switch), now).unwrap();
    let expired_switch = KillSwitch { expires_at: Some(now), ..on_switch.clone() };
    let of = |kind: &'static str, count: usize, switch: KillSwitch| {
        (0..count).map(move |number| (format!("dev/{kind}-{number}"), switch.clone()))
    };
    let switches = of("on", on, on_switch).chain(of("lifted", lifted, lifted_switch));
    TopicContents { switches: switches.chain(of("expired", expired, expired_switch)).collect(), highest: 11 }
}

#[test]
fn only_killed_flags_count_as_killed_and_each_limit_has_its_own_message() {
    let now = Utc::now();
    let kill = pending(Action::Kill { expires_at: None }, Some(3));
    let (killed, stored) = (SWITCHES_MAX, STORED_SWITCHES_MAX);
    let admits = |switches| topic(switches, now).admits(&kill, now);
    assert!(admits([killed - 1, 2, 2]).is_ok());
    assert!(admits([0, killed, killed - 1]).is_ok(), "no flag is killed");
    assert!(matches!(admits([killed, 0, 0]), Err(KillError::TooMany)));
    assert!(matches!(admits([1, killed, killed - 1]), Err(KillError::TooManyStored)));
    assert!(KillError::TooMany.to_string().contains("10000 killed flags"));
    assert!(KillError::TooManyStored.to_string().contains("20000 flags have a kill switch"));
    // The flag's own switch: in force, it can always be changed; lifted, it can be set if not too many are killed.
    let mut full = topic([killed - 1, stored - killed, 0], now);
    let on = written(&kill, None, now).unwrap();
    full.switches.insert(kill.key(), on.clone());
    assert!(full.admits(&kill, now).is_ok());
    let lifted = written(&pending(Action::Restore, Some(3)), Some(&on), now).unwrap();
    full.switches.insert(kill.key(), lifted.clone());
    assert!(full.admits(&kill, now).is_ok());
    let mut full = topic([killed, 0, 0], now);
    full.switches.insert(kill.key(), lifted);
    assert!(matches!(full.admits(&kill, now), Err(KillError::TooMany)));
    // A full topic refuses nothing but kills.
    for action in [Action::Restore, Action::Expire, Action::Renew, Action::Forget, Action::Reinstate] {
        assert!(topic([killed, killed, 0], now).admits(&pending(action, Some(3)), now).is_ok(), "{action:?}");
    }
}
