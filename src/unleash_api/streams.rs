//! Streams of definitions for server SDKs: a hydration with all flags, then an update per change.
//!
//! Each selection with listeners has one hub, and a task that compares the definitions after every change. It writes the
//! frame once; all listeners send the same bytes. A listener that falls behind is disconnected: its SDK reconnects and
//! receives a hydration. Event ids are a counter of this process, because SDKs read them as 32-bit numbers, and versions
//! are larger. They are not resumed from: every connection begins with a hydration.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::body::Bytes;
use chrono::Utc;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep_until};

use crate::message::event::write_integer;
use crate::message::json::write_string;
use crate::shutdown::Shutdown;
use crate::store::Store;

use super::features::{Features, Item, write_texts};
use super::flag_sets::{FlagSet, FlagSets};

/// Maximum frames that a listener may be behind.
pub const MAX_FRAMES_BEHIND: usize = 64;
/// Minimum interval between two frames of a hub. Changes in between share a frame.
const MIN_FRAME_INTERVAL: Duration = Duration::from_millis(20);
/// Longest sleep until definitions must be prepared again because of the time.
const MAX_SLEEP: Duration = Duration::from_secs(3_600);

/// All hubs of this process.
#[derive(Debug)]
pub struct Streams {
    store: Arc<Store>,
    flag_sets: Arc<FlagSets>,
    shutdown: Shutdown,
    hubs: Mutex<HashMap<Arc<str>, Weak<Hub>, ahash::RandomState>>,
}

/// Listeners of one selection.
#[derive(Debug)]
pub struct Hub {
    set: Arc<FlagSet>,
    state: Mutex<HubState>,
    frames: broadcast::Sender<Bytes>,
}

#[derive(Debug)]
struct HubState {
    features: Arc<Features>,
    /// Id of the last event.
    event_id: u32,
    /// Frame with all definitions in force.
    hydration: Option<Bytes>,
}

/// Position of one listener.
#[derive(Debug)]
pub struct Listener {
    pub frames: broadcast::Receiver<Bytes>,
    /// Keeps the hub's task running.
    _hub: Arc<Hub>,
}

impl Streams {
    pub fn new(store: Arc<Store>, flag_sets: Arc<FlagSets>, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self { store, flag_sets, shutdown, hubs: Mutex::default() })
    }

    /// Listens to a set. Returns the first frame separately, because it has all definitions and must not be kept while the
    /// stream is open. `None` if the set's environment is not served. Must be called within a Tokio runtime.
    pub fn listen(self: &Arc<Self>, set: &Arc<FlagSet>) -> Option<(Bytes, Listener)> {
        let key = set.selection.key();
        let mut hubs = self.lock();
        let hub = match hubs.get(key).and_then(Weak::upgrade) {
            Some(hub) => hub,
            None => {
                let features = self.features(set)?;
                let hub = Arc::new(Hub {
                    set: Arc::clone(set),
                    state: Mutex::new(HubState { features, event_id: 1, hydration: None }),
                    frames: broadcast::Sender::new(MAX_FRAMES_BEHIND),
                });
                hubs.retain(|_, hub| hub.strong_count() > 0);
                hubs.insert(Arc::clone(key), Arc::downgrade(&hub));
                tokio::spawn(follow(Arc::clone(self), Arc::downgrade(&hub)));
                hub
            }
        };
        drop(hubs);
        // Both under one lock, so that no frame lies between the hydration and the first update.
        let mut state = hub.lock();
        let (frames, hydration) = (hub.frames.subscribe(), state.hydration());
        drop(state);
        Some((hydration, Listener { frames, _hub: hub }))
    }

    fn features(&self, set: &FlagSet) -> Option<Arc<Features>> {
        self.flag_sets.features(set, &self.store.load(), Utc::now().timestamp_millis())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Weak<Hub>, ahash::RandomState>> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a frame after each change, until the hub has no listeners.
async fn follow(streams: Arc<Streams>, hub: Weak<Hub>) {
    let mut versions = streams.store.versions();
    loop {
        let Some(current) = hub.upgrade() else { return };
        if let Some(features) = streams.features(&current.set) {
            current.update(features);
        }
        let now_ms = Utc::now().timestamp_millis();
        let left_ms = current.lock().features.valid_until_ms.saturating_sub(now_ms);
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or_default()).min(MAX_SLEEP);
        // Not held while waiting, so that the hub ends with its last listener.
        drop(current);
        let begun = Instant::now();
        tokio::select! {
            () = streams.shutdown.cancelled() => return,
            changed = versions.changed() => if changed.is_err() { return },
            () = sleep_until(begun + left) => {}
        }
        sleep_until(begun + MIN_FRAME_INTERVAL).await;
    }
}

impl Hub {
    /// Puts definitions in force and sends the difference to all listeners.
    fn update(&self, features: Arc<Features>) {
        let mut state = self.lock();
        if Arc::ptr_eq(&state.features, &features) {
            return;
        }
        let before = std::mem::replace(&mut state.features, features);
        let after = Arc::clone(&state.features);
        let changes = changes(&before, &after);
        if changes.is_empty() {
            return;
        }
        state.hydration = None;
        let mut frame = br#"event: unleash-updated"#.to_vec();
        let last = state.event_id.saturating_add(u32::try_from(changes.len()).unwrap_or(u32::MAX));
        begin_data(&mut frame, last);
        for (index, change) in changes.iter().enumerate() {
            if index > 0 {
                frame.push(b',');
            }
            state.event_id = state.event_id.saturating_add(1);
            change.write(&mut frame, state.event_id);
        }
        frame.extend_from_slice(b"]}\n\n");
        // Fails only if there are no listeners.
        let _ = self.frames.send(frame.into());
    }

    fn lock(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HubState {
    fn hydration(&mut self) -> Bytes {
        let Self { features, event_id, hydration } = self;
        let frame = hydration.get_or_insert_with(|| {
            let bytes: usize = features.items.iter().map(|item| item.text.len() + 1).sum();
            let mut frame = Vec::with_capacity(bytes + 128);
            frame.extend_from_slice(b"event: unleash-connected");
            begin_data(&mut frame, *event_id);
            frame.extend_from_slice(br#"{"type":"hydration","eventId":"#);
            write_integer(&mut frame, *event_id);
            frame.extend_from_slice(br#","features":["#);
            write_texts(&mut frame, &features.items);
            frame.extend_from_slice(b"],\"segments\":[]}]}\n\n");
            frame.into()
        });
        frame.clone()
    }
}

/// Difference of one flag.
#[derive(Debug)]
enum Change<'f> {
    Updated(&'f Item),
    Removed { name: &'f str, project: &'f str },
}

impl Change<'_> {
    fn write(&self, out: &mut Vec<u8>, event_id: u32) {
        match self {
            Self::Updated(item) => {
                out.extend_from_slice(br#"{"type":"feature-updated","eventId":"#);
                write_integer(out, event_id);
                out.extend_from_slice(br#","feature":"#);
                out.extend_from_slice(item.text.as_bytes());
            }
            Self::Removed { name, project } => {
                out.extend_from_slice(br#"{"type":"feature-removed","eventId":"#);
                write_integer(out, event_id);
                out.extend_from_slice(br#","featureName":"#);
                write_string(out, name);
                out.extend_from_slice(br#","project":"#);
                write_string(out, project);
            }
        }
        out.push(b'}');
    }
}

/// Differences between two lists of definitions, both sorted by name.
fn changes<'f>(before: &'f Features, after: &'f Features) -> Vec<Change<'f>> {
    let mut changes = Vec::new();
    for item in &after.items {
        if before.find(&item.flag.name).is_none_or(|known| known.text != item.text) {
            changes.push(Change::Updated(item));
        }
    }
    for item in &before.items {
        if after.find(&item.flag.name).is_none() {
            let project = item.flag.summary().project.as_deref().unwrap_or("default");
            changes.push(Change::Removed { name: &item.flag.name, project });
        }
    }
    changes
}

fn begin_data(frame: &mut Vec<u8>, event_id: u32) {
    frame.extend_from_slice(b"\nid: ");
    write_integer(frame, event_id);
    frame.extend_from_slice(b"\ndata: {\"events\":[");
}

/// Frame that asks an SDK to poll instead.
pub fn poll_instead() -> Bytes {
    Bytes::from_static(b"event: fetch-mode\ndata: polling\n\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use crate::flag::{CompiledFlag, FlagChange};
    use crate::metrics::Metrics;
    use crate::unleash_api::selection::Selection;

    use super::*;

    fn set(store: &Store, name: &str, version: u64, enabled: bool) {
        let record = json!({"environment": "e", "flag_name": name, "source": "unleash", "version": version,
            "checksum": "", "definition": {"name": name, "enabled": enabled, "project": "p"}});
        let mut flag = CompiledFlag::compile("e", version, &record["definition"].to_string()).unwrap();
        flag.record = Some(record.to_string().into_bytes().into());
        store.apply([FlagChange::Set(flag.into())]);
    }

    fn events(frame: &Bytes) -> (String, Value) {
        let text = std::str::from_utf8(frame).unwrap();
        let (head, data) = text.strip_suffix("\n\n").unwrap().split_once("\ndata: ").unwrap();
        (head.replace('\n', " "), serde_json::from_str::<Value>(data).unwrap()["events"].take())
    }

    #[tokio::test]
    async fn a_listener_gets_everything_and_then_each_change_once() {
        let store = Arc::new(Store::default());
        set(&store, "a", 1, true);
        set(&store, "b", 2, true);
        let flag_sets = Arc::new(FlagSets::new(Metrics::new()));
        let streams = Streams::new(Arc::clone(&store), Arc::clone(&flag_sets), Shutdown::new());
        let of_e = flag_sets.of(&Selection::of_projects("e", None));
        let (first, mut listener) = streams.listen(&of_e).unwrap();
        let (head, hydration) = events(&first);
        assert_eq!(head, "event: unleash-connected id: 1");
        assert_eq!(hydration[0]["features"].as_array().unwrap().len(), 2);
        assert_eq!((&hydration[0]["type"], &hydration[0]["segments"]), (&json!("hydration"), &json!([])));

        set(&store, "b", 3, false);
        let (head, updated) = events(&listener.frames.recv().await.unwrap());
        assert_eq!(head, "event: unleash-updated id: 2");
        let feature = json!({"name": "b", "enabled": false, "project": "p"});
        assert_eq!(updated, json!([{"type": "feature-updated", "eventId": 2, "feature": feature}]));
        let removal = FlagChange::Remove { environment: "e".into(), name: "a".into(), version: 4 };
        store.apply([removal]);
        let (_, removed) = events(&listener.frames.recv().await.unwrap());
        let expected = json!([{"type": "feature-removed", "eventId": 3, "featureName": "a", "project": "p"}]);
        assert_eq!(removed, expected);

        // A second listener shares the hub, and begins with what is in force.
        let (first, other) = streams.listen(&of_e).unwrap();
        let (head, hydration) = events(&first);
        assert_eq!(head, "event: unleash-connected id: 3");
        assert_eq!(hydration[0]["features"], json!([feature]));
        assert!(streams.listen(&flag_sets.of(&Selection::of_projects("x", None))).is_none());
        drop((listener, other));
        set(&store, "c", 5, true);
        while streams.lock().values().any(|hub| hub.strong_count() > 0) {
            tokio::task::yield_now().await;
        }
    }
}
