#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::{FlagChange, Snapshot};
use crate::CompiledFlag;

fn set(environment: &str, name: &str, version: u64) -> FlagChange {
    let definition = serde_json::json!({ "name": name, "enabled": true });
    let flag = CompiledFlag::compile(environment, version, &definition.to_string());
    FlagChange::Set(Arc::new(flag.unwrap()))
}

fn remove(environment: &str, name: &str, version: u64) -> FlagChange {
    FlagChange::Remove { environment: environment.into(), name: name.into(), version }
}

#[test]
fn an_empty_snapshot_serves_nothing() {
    let empty = Snapshot::default();
    assert_eq!(empty.version(), 0);
    assert!(empty.environment("production").is_none());
    let serving = empty.serving(["production", "development"]);
    assert!(serving.environment("production").unwrap().is_empty());
    let names: Vec<&str> = serving.environments().map(|(name, _)| name.as_ref()).collect();
    assert_eq!(names, ["development", "production"]);
}

#[test]
fn a_change_leaves_the_former_snapshot_as_it_was() {
    let one = Snapshot::default().with([set("e", "a", 5), set("e", "b", 3)]);
    let two = one.with([set("e", "a", 7), remove("e", "b", 8), remove("other", "x", 6)]);
    assert_eq!((one.version(), two.version()), (5, 8));
    let version =
        |snapshot: &Snapshot, name| snapshot.environment("e").unwrap().get(name).map(|flag| flag.version);
    assert_eq!((version(&one, "a"), version(&one, "b")), (Some(5), Some(3)));
    assert_eq!((version(&two, "a"), version(&two, "b")), (Some(7), None));
    assert!(two.environment("other").unwrap().is_empty());
    assert_eq!(one.with([remove("e", "a", 9), remove("e", "b", 9)]).environment("e").unwrap().len(), 0);
}

#[test]
fn a_change_shares_the_flags_it_does_not_touch() {
    let one = Snapshot::default().with((0..1_000).map(|number| set("e", &number.to_string(), 1)));
    let two = one.with([set("e", "7", 2)]);
    let shared = one.environment("e").unwrap().iter().filter(|flag| {
        let other = two.environment("e").unwrap().get(&flag.name).unwrap();
        Arc::ptr_eq(flag, other)
    });
    assert_eq!(shared.count(), 999);
}

proptest! {
    #[test]
    fn it_is_a_map_from_environment_and_name(steps in proptest::collection::vec(
        (any::<bool>(), 0_u8..3, 0_u8..40, 1_u64..1_000), 0..120), batch in 1_usize..20)
    {
        let mut model = BTreeMap::new();
        let mut snapshot = Snapshot::default();
        for steps in steps.chunks(batch) {
            snapshot = snapshot.with(steps.iter().map(|(is_set, environment, name, version)| {
                let (environment, name) = (format!("e{environment}"), format!("flag-{name}"));
                if *is_set {
                    model.insert((environment.clone(), name.clone()), *version);
                    set(&environment, &name, *version)
                } else {
                    model.remove(&(environment.clone(), name.clone()));
                    remove(&environment, &name, *version)
                }
            }));
        }
        let mut found = BTreeSet::new();
        for (environment, flags) in snapshot.environments() {
            prop_assert_eq!(flags.len(), flags.iter().count());
            found.extend(flags.iter().map(|flag| ((environment.to_string(), flag.name.to_string()), flag.version)));
        }
        prop_assert_eq!(found, model.into_iter().collect::<BTreeSet<_>>());
        prop_assert_eq!(snapshot.version(), steps.iter().map(|step| step.3).max().unwrap_or(0));
    }
}
