#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::flag::CompiledFlag;

fn set(name: &str, version: u64) -> FlagChange {
    let definition = serde_json::json!({ "name": name, "enabled": true }).to_string();
    FlagChange::Set(Arc::new(CompiledFlag::compile("e", version, &definition).unwrap()))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[tokio::test]
async fn a_waiter_wakes_when_its_version_is_in_force() {
    let store = Arc::new(Store::default());
    let waiting = Arc::clone(&store);
    let waiter = tokio::spawn(async move {
        let reached = waiting.wait_for_version(7, soon()).await;
        (reached, waiting.version())
    });
    tokio::task::yield_now().await;
    store.apply([set("a", 5)]);
    assert!(!waiter.is_finished());
    store.apply([set("b", 7), set("c", 6)]);
    assert_eq!(waiter.await.unwrap(), (true, 7));
    assert!(store.wait_for_version(6, Instant::now()).await, "in force already");
}

#[tokio::test]
async fn waiting_ends_at_its_deadline() {
    let store = Store::default();
    let deadline = Instant::now() + Duration::from_millis(20);
    assert!(!store.wait_for_version(1, deadline).await);
    assert!(!store.wait_until_ready(deadline).await);
    store.replace(Snapshot::default());
    assert!(store.wait_until_ready(soon()).await);
    assert!(store.is_ready());
}

#[test]
fn readers_keep_the_snapshot_they_have() {
    let store = Store::default();
    store.apply([set("a", 1)]);
    let before = store.load();
    store.apply([set("a", 2), set("b", 3)]);
    assert_eq!((before.version(), store.version()), (1, 3));
    store.serve(["other"]);
    assert!(store.load().environment("other").unwrap().is_empty());
    assert_eq!(store.load().environment("e").unwrap().len(), 2);
}
