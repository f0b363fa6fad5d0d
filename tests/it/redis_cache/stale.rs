//! No reader gets a value that is older than the last invalidation.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flagstream::config::{Config, Profile, load_from};
use flagstream::metrics::Metrics;
use flagstream::redis_cache::{Read, Reader, Subject};
use flagstream::shutdown::Shutdown;
use flagstream::store::{self, Store};
use serde_json::json;

use super::{EMPTY, World, ask, key, request};
use crate::harness::{Flag, Flags, Sender, Stack, TEST_TIMEOUT, is_long, runtime, wait_until};

const READERS: usize = 8;
const USERS: usize = 40;

/// State that the readers share.
struct Watch {
    subject_user: Vec<String>,
    /// Version in force in the store of this process.
    in_force: AtomicU64,
    /// Announced in Redis.
    announced: AtomicU64,
    stop: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The variant contains its version, so that a mixture of two would be visible.
fn flag(number: usize) -> Flag {
    let text = number.to_string();
    Flag::on("hot").variant(&format!("v{text}"), Some(("number", &text)))
}

fn config(world: &World) -> Arc<Config> {
    let mut settings = world.group.topics.settings();
    settings.push(("REDIS_URL".to_owned(), world.redis.url.clone()));
    settings.push((
        "FLAGSTREAM_STATE_DIR".to_owned(),
        world.group.folder.path().join("reader").display().to_string(),
    ));
    let settings = settings.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Arc::new(load_from(None, settings, Profile::Service).unwrap().config)
}

impl Watch {
    /// Reads until the end; with the store of this process, or with one that receives no changes.
    fn read(&self, reader: &Reader, frozen: bool, seed: usize) {
        let mut number = seed;
        while !self.stop.load(Ordering::Relaxed) {
            number = (number + 7) % USERS;
            let user = Some(self.subject_user[number].as_str());
            let subject =
                Subject { environment: "production", flag: "hot", user, session: None, context: "{}" };
            let oldest = if frozen { &self.announced } else { &self.in_force }.load(Ordering::SeqCst);
            match runtime().block_on(reader.read(&subject, 0)) {
                Read::Hit(warm) => {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    assert!(warm.flag_version >= oldest, "stale: {} after {oldest}", warm.flag_version);
                    let (name, payload) = warm.variant.unwrap();
                    assert_eq!(name[1..], *payload.unwrap().text, "a mixture");
                }
                Read::Miss(_) => drop(self.misses.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }
}

#[test]
fn eight_readers_never_see_an_older_answer_while_flags_change() {
    let (stack, _shared) = Stack::shared();
    let world = World::start(stack, |flags| {
        flags.set("production", flag(0));
    });
    let _second = world.group.start("two");
    let changes = if is_long() { 500 } else { 50 };
    let config = config(&world);
    let (store, metrics, shutdown) = (Arc::new(Store::default()), Metrics::new(), Shutdown::new());
    let following = store::Reader::start(
        (&*config).into(),
        Arc::clone(&store),
        Arc::clone(&metrics.store),
        shutdown.clone(),
    )
    .unwrap();
    let reader = Reader::new(&config, Arc::clone(&store), Arc::clone(&metrics)).unwrap().unwrap();
    let frozen = Reader::new(&config, Arc::new(Store::default()), Arc::clone(&metrics)).unwrap().unwrap();
    let watch = Watch {
        subject_user: (0..USERS).map(|number| format!("u{number}")).collect(),
        in_force: AtomicU64::new(0),
        announced: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        hits: AtomicU64::new(0),
        misses: AtomicU64::new(0),
    };
    let last = std::thread::scope(|scope| {
        for seed in 0..READERS {
            let reader = if seed % 4 == 3 { &frozen } else { &reader };
            let watch = &watch;
            scope.spawn(move || watch.read(reader, seed % 4 == 3, seed));
        }
        // Evaluations go on all the time, so that writes race with changes.
        let (topics, watch) = (&world.group.topics, &watch);
        scope.spawn(move || {
            let sender = Sender::new(&topics.kafka);
            for number in (0..USERS).cycle() {
                if watch.stop.load(Ordering::Relaxed) {
                    break;
                }
                ask(&sender, topics, &request("hot", &format!("u{number}"), json!({})));
            }
        });
        let mut flags = Flags::new(topics).later(1_000);
        let mut last = 0;
        for number in 1..=changes {
            last = flags.change("production", flag(number));
            wait_until("in force here", TEST_TIMEOUT, || store.version() >= last);
            watch.in_force.store(last, Ordering::SeqCst);
            wait_until("announced", TEST_TIMEOUT, || {
                let floor: Option<u64> =
                    world.redis.command(&["GET", "flagstream:warm:{production/hot}:floor"]);
                floor.is_some_and(|floor| floor >= last)
            });
            watch.announced.store(last, Ordering::SeqCst);
            // As long as it takes to read something of this version: the readers are at work.
            let hits = watch.hits.load(Ordering::Relaxed);
            let begun = Instant::now();
            while watch.hits.load(Ordering::Relaxed) < hits + 20 && begun.elapsed() < TEST_TIMEOUT {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        watch.stop.store(true, Ordering::Relaxed);
        last
    });
    shutdown.cancel();
    assert!(following.join());
    let (hits, misses) = (watch.hits.load(Ordering::Relaxed), watch.misses.load(Ordering::Relaxed));
    assert!(hits > 20 * changes as u64, "{hits} hits, {misses} misses");
    eprintln!("{changes} changes, {hits} hits, {misses} misses, none stale");
    for number in 0..USERS {
        world.redis.wait(&key("hot", &format!("u{number}"), EMPTY), |it| it["flag_version"] == last);
    }
}
