#![allow(clippy::unwrap_used)]

use super::*;
use crate::store::disk::DiskSnapshot;
use crate::store::test_records::{switch, uncompilable, value};

struct Scene {
    _folder: tempfile::TempDir,
    disk: Disk,
    store: Arc<Store>,
    keeper: Keeper,
}

impl Scene {
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
        let mut keeper =
            Keeper::new(Arc::clone(&store), Metrics::new(), Some(disk.clone()), "definitions", expected)
                .unwrap();
        keeper.load(&disk);
        Self { _folder: folder, disk, store, keeper }
    }

    /// Begins a reading without any kill switches.
    fn begin_reading(&mut self) {
        self.keeper.begin_reading();
        self.keeper.switches_read(false);
    }

    fn set(&mut self, key: &str, version: u64) {
        self.take(key, &value(key, version, true));
    }

    fn take(&mut self, key: &str, value: &[u8]) {
        let record = Record { key: Some(key.as_bytes()), value: Some(value), version: None };
        self.keeper.take(&record, 0, None);
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
        saved: crate::store::ledger::Saved { values: values.collect(), ..Default::default() },
        sources: Vec::new(),
    };
    disk.save(&snapshot).unwrap();
}

#[test]
fn nothing_is_in_force_before_the_end_is_reached_and_then_all_at_once() {
    let mut scene = Scene::new();
    scene.begin_reading();
    scene.set("e/a", 5);
    scene.set("e/b", 6);
    scene.keeper.flush();
    assert_eq!((scene.flags(), scene.store.is_ready()), (0, false));
    scene.keeper.reached_end();
    assert_eq!((scene.flags(), scene.store.is_ready()), (2, true));
    let standing = scene.store.standing();
    assert_eq!((standing.origin, standing.flags, standing.offset), (Origin::Kafka, 2, 1));
    scene.set("e/c", 7);
    assert_eq!(scene.flags(), 2);
    scene.keeper.flush();
    assert_eq!((scene.flags(), scene.store.version()), (3, 7));
}

#[test]
fn a_refusal_shows_in_the_standing() {
    let mut scene = Scene::new();
    scene.begin_reading();
    scene.set("e/a", 5);
    scene.keeper.reached_end();
    scene.take("e/a", &uncompilable("e/a", 6));
    scene.keeper.flush();
    let standing = scene.store.standing();
    assert_eq!((standing.refused_total, standing.flags), (1, 1));
    assert!(standing.refused.get("e/a").unwrap().contains("strategies"));
}

#[test]
fn flags_from_disk_are_ready_when_kafka_refuses_and_give_way_to_the_topic() {
    let mut scene = Scene::with(|disk| filled(disk, 30));
    assert_eq!((scene.flags(), scene.store.is_ready()), (30, false));
    scene.keeper.trouble("a hiccup".to_owned(), false);
    assert!(!scene.store.is_ready());
    scene.keeper.trouble("refused".to_owned(), true);
    assert!(scene.store.is_ready());
    let standing = scene.store.standing();
    assert_eq!(standing.origin, Origin::Disk);
    assert_eq!(standing.age(Utc::now()).unwrap().as_secs() / 3600, 3);

    scene.begin_reading();
    for number in 0..25 {
        scene.set(&format!("e/{number}"), 5 + number % 2);
    }
    scene.keeper.reached_end();
    assert_eq!((scene.flags(), scene.store.version()), (25, 6));
    assert_eq!(scene.store.standing().origin, Origin::Kafka);
    assert_eq!(scene.store.standing().trouble, None);
}

#[test]
fn an_empty_topic_never_removes_a_flag() {
    let mut scene = Scene::with(|disk| filled(disk, 3));
    scene.begin_reading();
    scene.keeper.reached_end();
    scene.keeper.contact(Utc::now());
    assert_eq!((scene.flags(), scene.store.is_ready()), (3, true));
    let standing = scene.store.standing();
    assert_eq!(standing.origin, Origin::Disk);
    assert!(standing.trouble.as_ref().unwrap().contains("empty"));
    scene.keeper.sweep_at = Some(Instant::now());
    scene.keeper.tick();
    assert_eq!(scene.flags(), 3);
}

#[test]
fn most_flags_are_not_removed_at_once() {
    let mut scene = Scene::with(|disk| filled(disk, 30));
    scene.begin_reading();
    scene.set("e/0", 5);
    scene.keeper.reached_end();
    assert_eq!(scene.flags(), 30);
    scene.set("e/1", 6);
    scene.keeper.flush();
    scene.keeper.tick();
    assert_eq!(scene.flags(), 30);
    scene.keeper.sweep_at = Some(Instant::now());
    scene.keeper.tick();
    assert_eq!(scene.flags(), 2);
}

#[test]
fn what_is_in_force_is_on_disk_after_the_end() {
    let mut scene = Scene::new();
    scene.begin_reading();
    scene.set("e/a", 5);
    scene.keeper.reached_end();
    scene.keeper.tick();
    scene.set("e/b", 6);
    scene.keeper.flush();
    scene.keeper.tick();
    scene.keeper.finish();
    assert_eq!(scene.disk.load().unwrap().unwrap().saved.values.len(), 2);
}

#[test]
fn a_reading_that_did_not_end_is_not_saved() {
    let mut scene = Scene::with(|disk| filled(disk, 3));
    scene.begin_reading();
    scene.set("e/0", 6);
    scene.keeper.finish();
    assert_eq!(scene.disk.load().unwrap().unwrap().offset, 9);
}

#[test]
fn a_silent_broker_is_told_and_forgiven() {
    let mut scene = Scene::new();
    scene.begin_reading();
    scene.keeper.reached_end();
    let heard = Utc::now() - chrono::TimeDelta::seconds(60);
    scene.keeper.contact(heard);
    assert!(scene.store.standing().trouble.as_ref().unwrap().contains("no answer"));
    scene.keeper.contact(Utc::now() + chrono::TimeDelta::milliseconds(1));
    assert_eq!(scene.store.standing().trouble, None);
}

impl Scene {
    fn switch(&mut self, key: &str, value: Option<&[u8]>) {
        self.keeper.take_switch(&Record { key: Some(key.as_bytes()), value, version: None }, 0);
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
    let mut scene = Scene::new();
    scene.keeper.begin_reading();
    scene.set("e/a", 5);
    scene.switch("e/b", Some(&switch("e/b", 9, "killed")));
    scene.keeper.reached_end();
    assert!(!scene.store.is_ready(), "the switches are not read to their end");
    scene.keeper.switches_read(true);
    assert!(scene.store.is_ready());
    scene.set("e/b", 6);
    scene.switch("e/a", Some(&switch("e/a", 8, "killed")));
    scene.keeper.flush();
    assert_eq!((scene.killed("a"), scene.killed("b")), ((true, 8), (true, 9)));
    scene.set("e/a", 7);
    scene.set("e/b", 12);
    scene.keeper.flush();
    assert_eq!((scene.killed("a"), scene.killed("b")), ((true, 8), (true, 12)));
    scene.switch("e/a", Some(&switch("e/a", 13, "lifted")));
    scene.switch("e/b", None);
    scene.switch("e/c", Some(b"{}"));
    scene.keeper.flush();
    assert_eq!((scene.killed("a"), scene.killed("b")), ((false, 13), (false, 12)));
    assert_eq!(scene.store.switches().len(), 1);
}

#[test]
fn switches_are_on_disk_and_a_topic_made_anew_lifts_none() {
    let killed = || {
        Scene::with(|disk| {
            let saved = crate::store::ledger::Saved {
                values: vec![value("e/a", 5, true).into()],
                switches: vec![switch("e/a", 8, "killed").into()],
                ..Default::default()
            };
            let (topic, sources) = ("definitions".to_owned(), Vec::new());
            let snapshot = DiskSnapshot { saved_at: Utc::now(), topic, offset: 1, saved, sources };
            disk.save(&snapshot).unwrap();
        })
    };
    let read = |scene: &mut Scene, had_records| {
        scene.keeper.begin_reading();
        scene.set("e/a", 5);
        scene.keeper.switches_read(had_records);
        scene.keeper.reached_end();
    };
    let mut scene = killed();
    assert_eq!(scene.killed("a"), (true, 8));
    read(&mut scene, false);
    assert_eq!(scene.killed("a"), (true, 8), "a topic that was never written");
    let mut scene = killed();
    read(&mut scene, true);
    assert_eq!(scene.killed("a"), (false, 5), "compacted away");
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

    fn waiting(prepare: impl FnOnce(&Disk)) -> Scene {
        Scene::expecting(Expected { sources: vec![dev()], start_without_source: false }, prepare)
    }

    #[test]
    fn a_store_is_ready_when_its_source_was_read_to_the_end_and_stays_so() {
        let mut scene = waiting(|_| {});
        scene.begin_reading();
        scene.keeper.reached_end();
        assert!(!scene.store.is_ready(), "an empty topic");
        scene.take(&dev().key(), &status(false));
        scene.set("e/a", 5);
        scene.keeper.flush();
        assert!(!scene.store.is_ready(), "half of a first sync");
        assert!(scene.store.standing().waiting_for[0].contains("unleash (e)"));
        scene.take(&dev().key(), &status(true));
        scene.keeper.flush();
        assert!(scene.store.is_ready() && scene.store.standing().waiting_for.is_empty());
        scene.begin_reading();
        scene.take(&dev().key(), &status(false));
        scene.keeper.reached_end();
        assert!(scene.store.is_ready(), "a topic that was made anew");
    }

    #[test]
    fn flags_without_any_status_are_those_of_an_earlier_version() {
        let mut scene = waiting(|_| {});
        scene.begin_reading();
        scene.set("e/a", 5);
        scene.keeper.reached_end();
        assert!(scene.store.is_ready());
    }

    #[test]
    fn a_snapshot_of_an_unfinished_first_sync_is_not_good_enough() {
        let mut scene = waiting(|_| {});
        scene.begin_reading();
        scene.take(&dev().key(), &status(false));
        scene.keeper.reached_end();
        let Scene { _folder, disk, keeper, .. } = scene;
        keeper.finish();
        let bytes = std::fs::read(disk.path()).unwrap();
        let load = |disk: &Disk| {
            std::fs::create_dir_all(disk.path().parent().unwrap()).unwrap();
            std::fs::write(disk.path(), &bytes).unwrap();
        };
        let mut scene = waiting(load);
        scene.keeper.trouble("Kafka is away".to_owned(), true);
        assert!(!scene.store.is_ready());
        let mut scene = waiting(|disk| filled(disk, 1));
        scene.keeper.trouble("Kafka is away".to_owned(), true);
        assert!(scene.store.is_ready(), "a snapshot with flags");
    }
}

#[test]
fn what_a_followed_topic_has_lost_is_kept_and_named_until_it_is_there_again() {
    let mut scene = Scene::new();
    scene.keeper.begin_reading();
    for key in ["e/a", "e/b", "e/c"] {
        scene.set(key, 5);
    }
    scene.switch("e/a", Some(&switch("e/a", 8, "killed")));
    scene.keeper.switches_read(true);
    scene.keeper.reached_end();
    scene.keeper.contact(Utc::now());
    let missing = scene.store.missing();

    // At a start both would be removed: there are few flags, and the topic has been written.
    scene.keeper.begin_reading();
    scene.set("e/c", 5);
    scene.keeper.switches_read(true);
    scene.keeper.reached_end();
    assert_eq!((scene.flags(), scene.killed("a")), (3, (true, 8)));
    let lost = Arc::clone(&missing.borrow());
    let mut keys: Vec<&str> = lost.definitions.iter().map(|(key, _)| &**key).collect();
    keys.sort_unstable();
    assert_eq!((keys, lost.switches.as_slice()), (vec!["e/a", "e/b"], &["e/a".into()][..]));
    assert_eq!(scene.store.standing().missing, 3);

    scene.set("e/a", 5);
    scene.set("e/b", 5);
    scene.switch("e/a", Some(&switch("e/a", 9, "killed")));
    scene.keeper.flush();
    assert!(missing.borrow().is_empty());
    assert_eq!((scene.flags(), scene.store.standing().missing), (3, 0));
}

#[test]
fn a_topic_whose_beginning_was_cut_removes_no_flag_at_a_start() {
    let mut scene = Scene::with(|disk| filled(disk, 3));
    scene.keeper.begin_reading();
    scene.keeper.note_cut();
    scene.set("e/0", 5);
    scene.keeper.switches_read(true);
    scene.keeper.reached_end();
    assert_eq!(scene.flags(), 3);
}
