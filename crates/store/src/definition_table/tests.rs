#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::super::switches::RECENT_MAX;
use super::super::test_records::{switch_of_change, uncompilable, value};
use super::*;
use crate::flag::Snapshot;

/// Result of processing a record as one character; updates the snapshot.
fn take(
    table: &mut DefinitionTable,
    snapshot: &mut Snapshot,
    key: &str,
    value: Option<&[u8]>,
    version: Option<u64>,
) -> char {
    let record = Record { key: Some(key.as_bytes()), value, version };
    match table.take(&record) {
        ApplyOutcome::Changed(change) => {
            *snapshot = snapshot.with([change]);
            'c'
        }
        ApplyOutcome::Same => '=',
        ApplyOutcome::Stale => 'o',
        ApplyOutcome::Refused(..) => 'r',
    }
}

fn version_of(snapshot: &Snapshot, environment: &str, flag: &str) -> Option<u64> {
    snapshot.environment(environment)?.get(flag).map(|flag| flag.version)
}

#[test]
fn a_higher_version_replaces_a_lower_one_and_never_the_other_way_round() {
    let (mut table, mut snapshot) = (DefinitionTable::default(), Snapshot::default());
    let mut set =
        |version, on| take(&mut table, &mut snapshot, "e/a/b", Some(&value("e/a/b", version, on)), None);
    let outcomes: String =
        [set(5, true), set(5, true), set(4, false), set(7, false), set(5, true)].iter().collect();
    assert_eq!(outcomes, "c=oco");
    assert_eq!(version_of(&snapshot, "e", "a/b"), Some(7));
    // For the same version with another text, the topic takes precedence.
    assert_eq!(take(&mut table, &mut snapshot, "e/a/b", Some(&value("e/a/b", 7, true)), None), 'c');
}

#[test]
fn a_deleted_flag_does_not_come_back_with_an_older_record() {
    let (mut table, mut snapshot) = (DefinitionTable::default(), Snapshot::default());
    let set = |version| value("e/a", version, true);
    take(&mut table, &mut snapshot, "e/a", Some(&set(5)), None);
    assert_eq!(take(&mut table, &mut snapshot, "e/a", None, Some(4)), 'o');
    assert_eq!(take(&mut table, &mut snapshot, "e/a", None, Some(6)), 'c');
    assert_eq!(take(&mut table, &mut snapshot, "e/a", None, Some(6)), '=');
    assert_eq!(version_of(&snapshot, "e", "a"), None);
    assert_eq!(snapshot.version(), 6);
    assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(&set(5)), None), 'o');
    assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(&set(8)), None), 'c');
    assert_eq!(take(&mut table, &mut snapshot, "e/a", None, None), 'c');
    assert_eq!((version_of(&snapshot, "e", "a"), table.len()), (None, 0));
}

#[test]
fn what_is_refused_is_named_and_leaves_the_last_good_version_in_force() {
    let (mut table, mut snapshot) = (DefinitionTable::default(), Snapshot::default());
    take(&mut table, &mut snapshot, "e/a", Some(&value("e/a", 5, true)), None);
    let bad: [&[u8]; 5] = [b"", b"{}", b"\xff", &uncompilable("e/a", 9), &value("e/other", 9, true)];
    for value in bad {
        assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(value), None), 'r');
        assert_eq!(table.refused().keys().map(AsRef::as_ref).collect::<Vec<&str>>(), ["e/a"]);
    }
    assert_eq!(version_of(&snapshot, "e", "a"), Some(5));
    assert_eq!(take(&mut table, &mut snapshot, "e/b", Some(&value("e/b", 6, true)), None), 'c');
    assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(&value("e/a", 10, true)), None), 'c');
    assert!(table.refused().is_empty());
}

#[test]
fn what_cannot_be_compiled_and_has_no_good_version_is_there_with_the_reason() {
    let (mut table, mut snapshot) = (DefinitionTable::default(), Snapshot::default());
    let bad = uncompilable("e/a", 9);
    assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(&bad), None), 'c');
    let reason = |snapshot: &Snapshot| {
        let flag = snapshot.environment("e").unwrap().get("a").unwrap().clone();
        flag.unusable_because().map(str::to_owned)
    };
    assert!(reason(&snapshot).unwrap().contains("strategies"), "{:?}", reason(&snapshot));
    assert_eq!(table.refused().len(), 1);
    assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(&bad), None), '=');
    assert_eq!(table.refused().len(), 1, "it still is");
    // A saved definition is restored with its problems.
    let mut restored = DefinitionTable::default();
    assert!(matches!(restored.take_saved(&table.saved().values[0]), ApplyOutcome::Changed(_)));
    assert_eq!(restored.refused().len(), 1);
    assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(&value("e/a", 10, true)), None), 'c');
    assert_eq!((reason(&snapshot), table.refused().len()), (None, 0));
}

#[test]
fn a_flag_of_which_a_part_cannot_be_evaluated_is_listed_until_it_is_mended() {
    let (mut table, mut snapshot) = (DefinitionTable::default(), Snapshot::default());
    let text = String::from_utf8(value("e/a", 5, true)).unwrap();
    let odd = text.replace(
        r#""strategies":[]"#,
        r#""strategies":[{"name":"default","constraints":[{"contextName":"x","operator":"SOUNDS_LIKE"}]}]"#,
    );
    assert_ne!(odd, text);
    assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(odd.as_bytes()), None), 'c');
    let listed: Vec<_> = table.refused().values().map(|refused| refused.message.as_str()).collect();
    assert_eq!(listed, [r#"strategies[0].constraints[0].operator: unknown operator "SOUNDS_LIKE""#]);
    assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(odd.as_bytes()), None), '=');
    assert_eq!(table.refused().len(), 1);
    assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(&value("e/a", 6, true)), None), 'c');
    assert!(table.refused().is_empty());
}

/// A definition whose expressions take about seven megabytes.
fn with_expressions(key: &str, version: u64, mark: usize) -> Vec<u8> {
    let text = String::from_utf8(value(key, version, true)).unwrap();
    let constraint = |n: usize| {
        let expression = format!("{mark}-{n}-\\\\w{{30}}");
        format!(r#"{{"contextName":"x","operator":"REGEX","value":"{expression}"}}"#)
    };
    let constraints: Vec<_> = (0..3).map(constraint).collect();
    let strategies =
        format!(r#""strategies":[{{"name":"default","constraints":[{}]}}]"#, constraints.join(","));
    text.replace(r#""strategies":[]"#, &strategies).into_bytes()
}

#[test]
fn the_expressions_of_an_environment_are_limited_and_the_last_good_version_stays() {
    let (mut table, mut snapshot) = (DefinitionTable::default(), Snapshot::default());
    take(&mut table, &mut snapshot, "e/last", Some(&value("e/last", 1, true)), None);
    let mut count = 0;
    let refused = loop {
        let key = format!("e/f{count}");
        let outcome = take(&mut table, &mut snapshot, &key, Some(&with_expressions(&key, 5, count)), None);
        assert_eq!(outcome, 'c');
        if let Some(reason) = snapshot.environment("e").unwrap().get(&key[2..]).unwrap().unusable_because() {
            break reason.to_owned();
        }
        count += 1;
    };
    assert!((8..=32).contains(&count), "{count}");
    assert!(refused.contains("67108864 bytes"), "{refused}");
    let last = with_expressions("e/last", 9, 1_000);
    assert_eq!(take(&mut table, &mut snapshot, "e/last", Some(&last), None), 'r');
    assert_eq!(version_of(&snapshot, "e", "last"), Some(1));
    assert!(table.refused().contains_key("e/last"));
    // Another environment has its own limit, and deleting a flag frees memory.
    let other = with_expressions("other/f", 5, 0);
    assert_eq!(take(&mut table, &mut snapshot, "other/f", Some(&other), None), 'c');
    assert!(snapshot.environment("other").unwrap().get("f").unwrap().unusable_because().is_none());
    assert_eq!(take(&mut table, &mut snapshot, "e/f0", None, None), 'c');
    assert_eq!(take(&mut table, &mut snapshot, "e/last", Some(&last), None), 'c');
    assert_eq!(version_of(&snapshot, "e", "last"), Some(9));
}

#[test]
fn a_flag_cannot_take_the_place_of_another() {
    let text = String::from_utf8(value("e/a", 5, true)).unwrap();
    let disguised = text.replace(r#""name":"a""#, r#""name":"b""#);
    let (mut table, mut snapshot) = (DefinitionTable::default(), Snapshot::default());
    assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(disguised.as_bytes()), None), 'r');
}

#[test]
fn keys_that_are_no_keys_and_values_beyond_the_limit_are_refused() {
    let long = format!("e/{}", "x".repeat(256));
    let (mut table, mut snapshot) = (DefinitionTable::default(), Snapshot::default());
    for key in ["", "e", "/a", "e/", &long] {
        assert_eq!(take(&mut table, &mut snapshot, key, None, Some(1)), 'r', "{key}");
    }
    assert!(matches!(table.take(&Record::default()), ApplyOutcome::Refused(..)));
    let large = vec![b' '; super::super::record::MAX_VALUE_BYTES + 1];
    assert_eq!(take(&mut table, &mut snapshot, "e/a", Some(&large), None), 'r');
}

#[test]
fn a_reading_sweeps_what_it_did_not_show() {
    let (mut table, mut snapshot) = (DefinitionTable::default(), Snapshot::default());
    for key in ["e/gone", "e/kept", "e/broken"] {
        take(&mut table, &mut snapshot, key, Some(&value(key, 5, true)), None);
    }
    table.begin_reading();
    assert_eq!(table.unseen(), 3);
    take(&mut table, &mut snapshot, "e/kept", Some(&value("e/kept", 5, true)), None);
    take(&mut table, &mut snapshot, "e/broken", Some(b"{}"), None);
    assert_eq!(table.unseen(), 1);
    snapshot = snapshot.with(table.sweep());
    let left: Vec<_> = ["gone", "kept", "broken"].map(|flag| version_of(&snapshot, "e", flag)).into();
    assert_eq!(left, [None, Some(5), Some(5)]);
    assert_eq!(table.refused().len(), 1, "still broken in the topic");
    // A restored topic may use the version that was in force.
    assert_eq!(take(&mut table, &mut snapshot, "e/gone", Some(&value("e/gone", 5, true)), None), 'c');
}

#[test]
fn of_too_many_deletions_the_older_half_is_forgotten_even_if_they_share_a_version() {
    let count = MAX_REMOVED_COUNT + 1;
    let mut table = DefinitionTable::default();
    for number in 0..count {
        table.remember_removed(&format!("e/{number}"), 7);
    }
    assert_eq!(table.removed.len(), count - count / 2);
    let mut table = DefinitionTable::default();
    for number in 0..count {
        // The first tenth is older, the last tenth newer than the others.
        let version = if number < count / 10 { 1 } else { 7 + u64::from(number >= count - count / 10) };
        table.remember_removed(&format!("e/{number}"), version);
    }
    let of = |version: u64| table.removed.values().filter(|removed| **removed == version).count();
    assert_eq!((of(1), of(8)), (0, count / 10));
    assert_eq!(table.removed.len(), count - count / 2);
}

proptest! {
    #[test]
    fn half_of_the_deletions_is_forgotten_and_no_newer_one_before_an_older_one(
        versions in prop::collection::vec(0u64..6, 0..40),
    ) {
        let keyed = versions.iter().enumerate().map(|(index, version)| (index.to_string().into(), *version));
        let mut removed: AHashMap<Box<str>, u64> = keyed.collect();
        forget_lower_half(&mut removed);
        let mut kept: Vec<u64> = removed.into_values().collect();
        kept.sort_unstable();
        let mut expected = versions.clone();
        expected.sort_unstable();
        prop_assert_eq!(kept, expected.split_off(expected.len() / 2));
    }

    #[test]
    fn random_records_never_panic(
        records in prop::collection::vec((any::<Option<Vec<u8>>>(), any::<Option<Vec<u8>>>(), any::<Option<u64>>()), 0..20),
    ) {
        let mut table = DefinitionTable::default();
        for (key, value, version) in &records {
            table.take(&Record { key: key.as_deref(), value: value.as_deref(), version: *version });
        }
    }

    #[test]
    fn a_damaged_definition_is_refused_or_read_but_never_panics(cut in 0usize..200, flip in 0usize..200, bit in 0u8..8) {
        let mut bytes = value("e/a", 5, true);
        if let Some(byte) = bytes.get_mut(flip) {
            *byte ^= 1 << bit;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        DefinitionTable::default().take(&Record { key: Some(b"e/a"), value: Some(&bytes), version: None });
    }

    /// The highest version ends up in force, whatever the order of the records.
    #[test]
    fn the_highest_version_wins_in_any_order(versions in prop::collection::vec((1u64..50, any::<bool>()), 1..30)) {
        let (mut table, mut snapshot) = (DefinitionTable::default(), Snapshot::default());
        // Each version has one content, as with a real feeder.
        let deletes = |version: u64| version.is_multiple_of(3);
        for (version, _) in &versions {
            if deletes(*version) {
                take(&mut table, &mut snapshot, "e/a", None, Some(*version));
            } else {
                take(&mut table, &mut snapshot, "e/a", Some(&value("e/a", *version, true)), None);
            }
        }
        let highest = versions.iter().map(|(version, _)| *version).max().unwrap();
        prop_assert_eq!(version_of(&snapshot, "e", "a"), (!deletes(highest)).then_some(highest));
    }
}

#[test]
fn recent_changes_of_switches_are_remembered_once_each_and_are_bounded() {
    let mut table = DefinitionTable::default();
    let mut turn = |key: &str, version, state, change| {
        let value = switch_of_change(key, version, state, change);
        table.take_switch(&Record { key: Some(key.as_bytes()), value: Some(&value), version: None });
        table.recent_switches()
    };
    turn("e/a", 1, "killed", 1);
    turn("e/a", 1, "killed", 1);
    // Written again with a new version.
    turn("e/a", 2, "killed", 1);
    turn("e/b", 3, "killed", 2);
    let recent = turn("e/a", 4, "lifted", 3);
    let shown = |change: &RecentSwitch| {
        (
            change.after.flag_name.clone(),
            change.before.as_ref().map(|before| before.version),
            change.after.version,
        )
    };
    let expected = [("a".to_owned(), None, 1), ("b".to_owned(), None, 3), ("a".to_owned(), Some(2), 4)];
    assert_eq!(recent.iter().map(shown).collect::<Vec<_>>(), expected);
    for change in (0..).take(RECENT_MAX) {
        turn("e/c", 10 + change, "killed", 10 + u128::from(change));
    }
    let recent = table.recent_switches();
    assert_eq!(recent.len(), RECENT_MAX);
    assert!(recent.iter().all(|change| change.after.flag_name == "c"));
}
