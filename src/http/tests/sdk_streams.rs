//! Streams of definitions for server SDKs: as many as the default settings allow, in memory.
#![allow(clippy::unwrap_used)]

use futures_util::StreamExt;
use serde_json::json;

use super::limits::scene_of;
use super::*;
use crate::flag::{CompiledFlag, FlagChange, Snapshot};

const STREAMS: usize = 10_000;

fn flag(version: u64, enabled: bool) -> FlagChange {
    let definition = json!({"name": "f", "enabled": enabled});
    let record = json!({"environment": "development", "flag_name": "f", "source": "unleash", "version": version,
        "checksum": "", "definition": definition});
    let mut flag = CompiledFlag::compile("development", version, &definition.to_string()).unwrap();
    flag.record = Some(record.to_string().into_bytes().into());
    FlagChange::Set(Arc::new(flag))
}

#[tokio::test]
async fn ten_thousand_streams_receive_a_change_and_one_more_is_refused() {
    let settings = [
        ("FLAGSTREAM_UNLEASH_API__ENABLED", "true"),
        ("FLAGSTREAM_UNLEASH_API__PRETRUSTED_TOKENS", "backend=*:development.backend"),
        ("UNLEASH_ENVIRONMENT", "development"),
    ];
    let (api, router, publishing) = scene_of(&settings, true);
    api.store.replace(Snapshot::default().with([flag(1, true)]));
    let open = || {
        let request = Request::get("/api/client/streaming").header("authorization", "*:development.backend");
        router.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    let mut streams = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        let mut stream = open().await.unwrap().into_body().into_data_stream();
        let first = stream.next().await.unwrap().unwrap();
        assert!(first.starts_with(b"event: unleash-connected\n"), "{first:?}");
        streams.push(stream);
    }
    assert_eq!(api.metrics.http.listeners.get(), STREAMS as i64);
    let refused = open().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(RETRY_AFTER));
    api.store.apply([flag(2, false)]);
    let mut frames = Vec::with_capacity(STREAMS);
    for stream in &mut streams {
        let mut frame = stream.next().await.unwrap().unwrap();
        // A heartbeat may be due before.
        while frame.starts_with(b":") {
            frame = stream.next().await.unwrap().unwrap();
        }
        frames.push(frame);
    }
    assert!(frames[0].starts_with(b"event: unleash-updated\n"), "{:?}", frames[0]);
    // The frame is written once: all streams send the same bytes.
    assert!(frames.iter().all(|frame| frame.as_ptr() == frames[0].as_ptr()));
    drop(streams);
    assert_eq!(api.metrics.http.listeners.get(), 0);
    assert!(publishing.join());
}
