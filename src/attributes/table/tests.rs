//! Tests of the table on disk.

use std::path::Path;

use super::*;
use crate::metrics::Metrics;

fn open(folder: &Path) -> Table {
    let storage = Storage::open(folder, 8 << 20).unwrap();
    let config =
        AttributeTable { name: "user".to_owned(), field: "userId".to_owned(), topic: "t".to_owned() };
    Table::open(&storage, &config, 1 << 20, Metrics::new().attributes.of_table("user")).unwrap()
}

fn row(offset: i64, plan: &str) -> Row {
    Row { partition: 0, offset, json: format!(r#"{{"plan":"{plan}"}}"#).into() }
}

/// Applies rows behind which `next` is the next offset.
fn apply(table: &Table, state: &mut State, next: i64, rows: &[(&str, Option<&str>)]) {
    let changes = rows.iter().map(|(key, plan)| ((*key).into(), plan.map(|plan| row(next - 1, plan))));
    state.offsets.insert(0, next);
    table.apply(state, &changes.collect()).unwrap();
}

fn plan(table: &Table, key: &str) -> Option<String> {
    table.get(key).map(|row| row.json.to_string())
}

fn new_state() -> State {
    State::default().anew("t", "id", 0)
}

#[test]
fn rows_and_offsets_are_there_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = new_state();
    {
        let table = open(folder.path());
        apply(&table, &mut state, 3, &[("ann", Some("gold")), ("bob", Some("free"))]);
        apply(&table, &mut state, 5, &[("bob", None), ("eve", None), ("ann", Some("free"))]);
        assert_eq!((state.rows, plan(&table, "bob")), (1, None));
    }
    let table = open(folder.path());
    assert_eq!(table.state().unwrap(), state);
    assert_eq!(state.offsets, [(0, 5)].into());
    assert_eq!(plan(&table, "ann").as_deref(), Some(r#"{"plan":"free"}"#));
    assert_eq!(
        (plan(&table, "bob"), plan(&table, ""), plan(&table, &"k".repeat(70_000))),
        (None, None, None)
    );
}

#[test]
fn a_change_is_seen_by_the_next_lookup() {
    let folder = tempfile::tempdir().unwrap();
    let (table, mut state) = (open(folder.path()), new_state());
    assert_eq!(plan(&table, "ann"), None);
    for (next, plan_of_ann) in [(1, "gold"), (2, "free"), (3, "gold")] {
        apply(&table, &mut state, next, &[("ann", Some(plan_of_ann))]);
        assert!(plan(&table, "ann").is_some_and(|json| json.contains(plan_of_ann)));
        assert!(plan(&table, "ann").is_some_and(|json| json.contains(plan_of_ann)), "from the cache");
    }
}

#[test]
fn a_new_build_keeps_the_rows_until_it_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let (table, mut state) = (open(folder.path()), new_state());
    let keys: Vec<String> = (0..10).map(|number| format!("user-{number}")).collect();
    let old: Vec<_> = keys.iter().map(|key| (key.as_str(), Some("old"))).collect();
    apply(&table, &mut state, 10, &old);
    let mut state = state.anew("t", "other", 0);
    table.store(&state).unwrap();
    apply(&table, &mut state, 2, &[("user-3", Some("new")), ("user-7", None)]);
    assert_eq!((state.rows, state.is_swept), (9, false));
    assert!(plan(&table, "user-0").is_some(), "it stays in force meanwhile");
    let mut after = None;
    for _ in 0..5 {
        after = table.sweep(&mut state, after.as_deref(), 3).unwrap();
        if state.is_swept {
            break;
        }
    }
    assert_eq!((state.rows, state.is_swept, after), (1, true, None));
    let left: Vec<_> = keys.iter().filter(|key| plan(&table, key).is_some()).collect();
    assert_eq!(left, ["user-3"]);
    assert_eq!(table.state().unwrap(), state);
}

#[test]
fn damaged_files_are_removed_and_the_table_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("attributes");
    {
        let table = open(&root);
        apply(&table, &mut new_state(), 1, &[("ann", Some("gold"))]);
    }
    let marker =
        std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_file());
    let files =
        std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.for_each(|file| std::fs::write(file, b"damaged").unwrap());
    assert!(marker.is_some());
    let table = open(&root);
    assert_eq!((plan(&table, "ann"), table.state().unwrap()), (None, State::default()));
}

#[tokio::test]
async fn a_write_waits_until_its_record_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let (table, mut state) = (open(folder.path()), new_state());
    let soon = || Instant::now() + std::time::Duration::from_millis(10);
    apply(&table, &mut state, 4, &[("ann", Some("gold"))]);
    assert!(table.wait_for(0, 3, soon()).await);
    assert!(!table.wait_for(0, 4, soon()).await);
    assert!(!table.wait_for(1, 0, soon()).await);
}
