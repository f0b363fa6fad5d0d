#![allow(clippy::unwrap_used)]

use super::*;
use crate::disk::DiskSnapshot;
use crate::test_records::{switch, uncompilable, value};

struct Fixture {
    _folder: tempfile::TempDir,
    disk: Disk,
    store: Arc<Store>,
    updater: StoreUpdater,
}

impl Fixture {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(prepare: impl FnOnce(&Disk)) -> Self {
        Self::expecting(anything(), prepare)
    }

    fn expecting(expected: Expected, prepare: impl FnOnce(&Disk)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        prepare(&disk);
        let store = Arc::new(Store::default());
        let mut updater = StoreUpdater::new(
            Arc::clone(&store),
            Arc::new(StoreMetrics::default()),
            Some(disk.clone()),
            "definitions",
            expected,
        )
        .unwrap();
        updater.load(&disk);
        Self { _folder: folder, disk, store, updater }
    }

    /// Begins a reading without any kill switches.
    fn begin_reading(&mut self) {
        self.updater.begin_reading();
        self.updater.switches_read(false);
    }

    fn set(&mut self, key: &str, version: u64) {
        self.take(key, &value(key, version, true));
    }

    fn take(&mut self, key: &str, value: &[u8]) {
        let record = Record { key: Some(key.as_bytes()), value: Some(value), version: None };
        self.updater.take(&record, 0, None);
    }

    fn flags(&self) -> usize {
        self.store.load().environment("e").map_or(0, |flags| flags.len())
    }
}

/// Expectation under which the store is ready with any content of the topic.
fn anything() -> Expected {
    Expected { start_without_source: true, ..Expected::default() }
}

/// Writes a snapshot with `count` flags of version 5.
fn filled(disk: &Disk, count: usize) {
    let values = (0..count).map(|number| value(&format!("e/{number}"), 5, true).into());
    let snapshot = DiskSnapshot {
        saved_at: Utc::now() - chrono::TimeDelta::hours(3),
        topic: "definitions".to_owned(),
        offset: 9,
        saved: crate::definition_table::Saved { values: values.collect(), ..Default::default() },
        sources: Vec::new(),
    };
    disk.save(&snapshot).unwrap();
}

#[test]
fn nothing_is_in_force_before_the_end_is_reached_and_then_all_at_once() {
    let mut fixture = Fixture::new();
    fixture.begin_reading();
    fixture.set("e/a", 5);
    fixture.set("e/b", 6);
    fixture.updater.flush();
    assert_eq!((fixture.flags(), fixture.store.is_ready()), (0, false));
    fixture.updater.reached_end();
    assert_eq!((fixture.flags(), fixture.store.is_ready()), (2, true));
    let status = fixture.store.status();
    assert_eq!((status.loaded_from, status.flags, status.offset), (LoadedFrom::Kafka, 2, 1));
    fixture.set("e/c", 7);
    assert_eq!(fixture.flags(), 2);
    fixture.updater.flush();
    assert_eq!((fixture.flags(), fixture.store.version()), (3, 7));
}

#[test]
fn a_refusal_shows_in_the_standing() {
    let mut fixture = Fixture::new();
    fixture.begin_reading();
    fixture.set("e/a", 5);
    fixture.updater.reached_end();
    fixture.take("e/a", &uncompilable("e/a", 6));
    fixture.updater.flush();
    let status = fixture.store.status();
    assert_eq!((status.refused_total, status.flags), (1, 1));
    assert!(status.refused.get("e/a").unwrap().contains("strategies"));
}

#[test]
fn flags_from_disk_are_ready_when_kafka_refuses_and_give_way_to_the_topic() {
    let mut fixture = Fixture::with(|disk| filled(disk, 30));
    assert_eq!((fixture.flags(), fixture.store.is_ready()), (30, false));
    fixture.updater.follow_error("a hiccup".to_owned(), false);
    assert!(!fixture.store.is_ready());
    fixture.updater.follow_error("refused".to_owned(), true);
    assert!(fixture.store.is_ready());
    let status = fixture.store.status();
    assert_eq!(status.loaded_from, LoadedFrom::Disk);
    assert_eq!(status.age(Utc::now()).unwrap().as_secs() / 3600, 3);

    fixture.begin_reading();
    for number in 0..25 {
        fixture.set(&format!("e/{number}"), 5 + number % 2);
    }
    fixture.updater.reached_end();
    assert_eq!((fixture.flags(), fixture.store.version()), (25, 6));
    assert_eq!(fixture.store.status().loaded_from, LoadedFrom::Kafka);
    assert_eq!(fixture.store.status().follow_error, None);
}

#[test]
fn an_empty_topic_never_removes_a_flag() {
    let mut fixture = Fixture::with(|disk| filled(disk, 3));
    fixture.begin_reading();
    fixture.updater.reached_end();
    fixture.updater.contact(Utc::now());
    assert_eq!((fixture.flags(), fixture.store.is_ready()), (3, true));
    let status = fixture.store.status();
    assert_eq!(status.loaded_from, LoadedFrom::Disk);
    assert!(status.follow_error.as_ref().unwrap().contains("empty"));
    fixture.updater.sweep_at = Some(Instant::now());
    fixture.updater.tick();
    assert_eq!(fixture.flags(), 3);
}

#[test]
fn most_flags_are_not_removed_at_once() {
    let mut fixture = Fixture::with(|disk| filled(disk, 30));
    fixture.begin_reading();
    fixture.set("e/0", 5);
    fixture.updater.reached_end();
    assert_eq!(fixture.flags(), 30);
    fixture.set("e/1", 6);
    fixture.updater.flush();
    fixture.updater.tick();
    assert_eq!(fixture.flags(), 30);
    fixture.updater.sweep_at = Some(Instant::now());
    fixture.updater.tick();
    assert_eq!(fixture.flags(), 2);
}

#[test]
fn what_is_in_force_is_on_disk_after_the_end() {
    let mut fixture = Fixture::new();
    fixture.begin_reading();
    fixture.set("e/a", 5);
    fixture.updater.reached_end();
    fixture.updater.tick();
    fixture.set("e/b", 6);
    fixture.updater.flush();
    fixture.updater.tick();
    fixture.updater.finish();
    assert_eq!(fixture.disk.load().unwrap().unwrap().saved.values.len(), 2);
}

#[test]
fn a_reading_that_did_not_end_is_not_saved() {
    let mut fixture = Fixture::with(|disk| filled(disk, 3));
    fixture.begin_reading();
    fixture.set("e/0", 6);
    fixture.updater.finish();
    assert_eq!(fixture.disk.load().unwrap().unwrap().offset, 9);
}

#[test]
fn a_silent_broker_is_told_and_forgiven() {
    let mut fixture = Fixture::new();
    fixture.begin_reading();
    fixture.updater.reached_end();
    let heard = Utc::now() - chrono::TimeDelta::seconds(60);
    fixture.updater.contact(heard);
    assert!(fixture.store.status().follow_error.as_ref().unwrap().contains("no contact"));
    fixture.updater.contact(Utc::now() + chrono::TimeDelta::milliseconds(1));
    assert_eq!(fixture.store.status().follow_error, None);
}

impl Fixture {
    fn switch(&mut self, key: &str, value: Option<&[u8]>) {
        self.updater.take_switch(&Record { key: Some(key.as_bytes()), value, version: None }, 0);
    }

    /// Whether the flag is killed, and its version.
    fn killed(&self, name: &str) -> (bool, u64) {
        let snapshot = self.store.load();
        let flag = snapshot.environment("e").and_then(|flags| flags.get(name)).unwrap();
        (flag.is_killed(Utc::now().timestamp_millis()), flag.version)
    }
}

#[test]
fn a_switch_is_on_its_flag_whichever_comes_first_and_outlives_its_definitions() {
    let mut fixture = Fixture::new();
    fixture.updater.begin_reading();
    fixture.set("e/a", 5);
    fixture.switch("e/b", Some(&switch("e/b", 9, "killed")));
    fixture.updater.reached_end();
    assert!(!fixture.store.is_ready(), "the switches are not read to their end");
    fixture.updater.switches_read(true);
    assert!(fixture.store.is_ready());
    fixture.set("e/b", 6);
    fixture.switch("e/a", Some(&switch("e/a", 8, "killed")));
    fixture.updater.flush();
    assert_eq!((fixture.killed("a"), fixture.killed("b")), ((true, 8), (true, 9)));
    fixture.set("e/a", 7);
    fixture.set("e/b", 12);
    fixture.updater.flush();
    assert_eq!((fixture.killed("a"), fixture.killed("b")), ((true, 8), (true, 12)));
    fixture.switch("e/a", Some(&switch("e/a", 13, "lifted")));
    fixture.switch("e/b", None);
    fixture.switch("e/c", Some(b"{}"));
    fixture.updater.flush();
    assert_eq!((fixture.killed("a"), fixture.killed("b")), ((false, 13), (false, 12)));
    assert_eq!(fixture.store.switches().len(), 1);
}

#[test]
fn switches_are_on_disk_and_a_topic_made_anew_lifts_none() {
    let killed = || {
        Fixture::with(|disk| {
            let saved = crate::definition_table::Saved {
                values: vec![value("e/a", 5, true).into()],
                switches: vec![switch("e/a", 8, "killed").into()],
                ..Default::default()
            };
            let (topic, sources) = ("definitions".to_owned(), Vec::new());
            let snapshot = DiskSnapshot { saved_at: Utc::now(), topic, offset: 1, saved, sources };
            disk.save(&snapshot).unwrap();
        })
    };
    let read = |fixture: &mut Fixture, had_records| {
        fixture.updater.begin_reading();
        fixture.set("e/a", 5);
        fixture.updater.switches_read(had_records);
        fixture.updater.reached_end();
    };
    let mut fixture = killed();
    assert_eq!(fixture.killed("a"), (true, 8));
    read(&mut fixture, false);
    assert_eq!(fixture.killed("a"), (true, 8), "a topic that was never written");
    let mut fixture = killed();
    read(&mut fixture, true);
    assert_eq!(fixture.killed("a"), (false, 5), "compacted away");
}

mod first_sync {
    use super::*;
    use crate::message::definition::Source;
    use crate::message::source_status::{SourceName, SourceStatus};

    fn dev() -> SourceName {
        SourceName { source: Source::Unleash, environment: "e".to_owned() }
    }

    fn status(is_synced: bool) -> Vec<u8> {
        let status = SourceStatus {
            source: Source::Unleash,
            environment: "e".to_owned(),
            synced_at: is_synced.then(Utc::now),
            last_success: None,
            error: None,
            leader: "one".to_owned(),
            reported_at: Utc::now(),
        };
        serde_json::to_vec(&status).unwrap()
    }

    fn waiting(prepare: impl FnOnce(&Disk)) -> Fixture {
        Fixture::expecting(Expected { sources: vec![dev()], start_without_source: false }, prepare)
    }

    #[test]
    fn a_store_is_ready_when_its_source_was_read_to_the_end_and_stays_so() {
        let mut fixture = waiting(|_| {});
        fixture.begin_reading();
        fixture.updater.reached_end();
        assert!(!fixture.store.is_ready(), "an empty topic");
        fixture.take(&dev().key(), &status(false));
        fixture.set("e/a", 5);
        fixture.updater.flush();
        assert!(!fixture.store.is_ready(), "half of a first sync");
        assert!(fixture.store.status().waiting_for[0].contains("unleash (e)"));
        fixture.take(&dev().key(), &status(true));
        fixture.updater.flush();
        assert!(fixture.store.is_ready() && fixture.store.status().waiting_for.is_empty());
        fixture.begin_reading();
        fixture.take(&dev().key(), &status(false));
        fixture.updater.reached_end();
        assert!(fixture.store.is_ready(), "a topic that was made anew");
    }

    #[test]
    fn flags_without_any_status_are_those_of_an_earlier_version() {
        let mut fixture = waiting(|_| {});
        fixture.begin_reading();
        fixture.set("e/a", 5);
        fixture.updater.reached_end();
        assert!(fixture.store.is_ready());
    }

    #[test]
    fn a_snapshot_of_an_unfinished_first_sync_is_not_good_enough() {
        let mut fixture = waiting(|_| {});
        fixture.begin_reading();
        fixture.take(&dev().key(), &status(false));
        fixture.updater.reached_end();
        let Fixture { _folder, disk, updater, .. } = fixture;
        updater.finish();
        let bytes = std::fs::read(disk.path()).unwrap();
        let load = |disk: &Disk| {
            std::fs::create_dir_all(disk.path().parent().unwrap()).unwrap();
            std::fs::write(disk.path(), &bytes).unwrap();
        };
        let mut fixture = waiting(load);
        fixture.updater.follow_error("Kafka is away".to_owned(), true);
        assert!(!fixture.store.is_ready());
        let mut fixture = waiting(|disk| filled(disk, 1));
        fixture.updater.follow_error("Kafka is away".to_owned(), true);
        assert!(fixture.store.is_ready(), "a snapshot with flags");
    }
}

#[test]
fn what_a_followed_topic_has_lost_is_kept_and_named_until_it_is_there_again() {
    let mut fixture = Fixture::new();
    fixture.updater.begin_reading();
    for key in ["e/a", "e/b", "e/c"] {
        fixture.set(key, 5);
    }
    fixture.switch("e/a", Some(&switch("e/a", 8, "killed")));
    fixture.updater.switches_read(true);
    fixture.updater.reached_end();
    fixture.updater.contact(Utc::now());
    let missing = fixture.store.missing();

    // At a start both would be removed: there are few flags, and the topic has been written.
    fixture.updater.begin_reading();
    fixture.set("e/c", 5);
    fixture.updater.switches_read(true);
    fixture.updater.reached_end();
    assert_eq!((fixture.flags(), fixture.killed("a")), (3, (true, 8)));
    let lost = Arc::clone(&missing.borrow());
    let mut keys: Vec<&str> = lost.definitions.iter().map(|(key, _)| &**key).collect();
    keys.sort_unstable();
    assert_eq!((keys, lost.switches.as_slice()), (vec!["e/a", "e/b"], &["e/a".into()][..]));
    assert_eq!(fixture.store.status().missing, 3);

    fixture.set("e/a", 5);
    fixture.set("e/b", 5);
    fixture.switch("e/a", Some(&switch("e/a", 9, "killed")));
    fixture.updater.flush();
    assert!(missing.borrow().is_empty());
    assert_eq!((fixture.flags(), fixture.store.status().missing), (3, 0));
}

#[test]
fn a_topic_whose_beginning_was_cut_removes_no_flag_at_a_start() {
    let mut fixture = Fixture::with(|disk| filled(disk, 3));
    fixture.updater.begin_reading();
    fixture.updater.note_cut();
    fixture.set("e/0", 5);
    fixture.updater.switches_read(true);
    fixture.updater.reached_end();
    assert_eq!(fixture.flags(), 3);
}
