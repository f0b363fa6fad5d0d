//! Filters and limits of watchers, without Kafka.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use super::*;
use crate::config::{Profile, load_from};
use crate::manage::EvaluationSelection;

fn event(more: &str) -> String {
    format!(
        r#"{{"event_type":"FEATURE_FLAG_EVALUATED","event_id":"0190b5a0-0000-7000-8000-000000000001","flag_name":"f",
        "environment":"e","user_id":"ann","request_id":"r-1","enabled":true,"variant":"v","reason":"TARGETING_MATCH",
        "flag_version":5,"flags_version":7,"typed_value":"x","default_value":"secret","context":{{"plan":"gold"}},
        "evaluated_at":"2026-01-15T10:30:00.012345Z","source":{{"api":"rest"}}{more}}}"#
    )
}

fn with<T>(text: &str, use_row: impl FnOnce(&crate::audit::evaluation::Evaluation<'_>) -> T) -> T {
    match Event::read(text.as_bytes()).unwrap() {
        Event::Evaluated(row) => use_row(&row),
        other => panic!("{other:?}"),
    }
}

fn live() -> Arc<Live> {
    let file = (Path::new("test.toml"), "instance = \"here\"\n");
    let config = load_from(Some(file), [], Profile::Service).unwrap().config;
    let live = Live::new(Arc::new(config), Arc::default(), Shutdown::new());
    // No thread is started, so that no Kafka is needed.
    live.lock().is_followed = true;
    live
}

#[test]
fn a_filter_selects_by_every_member() {
    let text = event("");
    let some = |text: &str| Some(text.to_owned());
    let all = EvaluationSelection::default;
    let selecting = [
        all(),
        EvaluationSelection { user_id: some("ann"), ..all() },
        EvaluationSelection { flag_name: some("f"), reason: some("TARGETING_MATCH"), ..all() },
        EvaluationSelection { environments: Some(vec!["x".to_owned(), "e".to_owned()]), ..all() },
        EvaluationSelection { variant: some("v"), request_id: some("r-1"), ..all() },
    ];
    let refusing = [
        EvaluationSelection { user_id: some("bob"), ..all() },
        EvaluationSelection { flag_name: some("g"), ..all() },
        EvaluationSelection { environments: Some(Vec::new()), ..all() },
        EvaluationSelection { variant: some("w"), ..all() },
        EvaluationSelection { request_id: some("r-2"), ..all() },
    ];
    with(&text, |row| {
        let means = |selection: &EvaluationSelection| {
            LiveFilter { selection: selection.clone(), ..LiveFilter::default() }.matches(row)
        };
        assert!(selecting.iter().all(means));
        assert!(!refusing.iter().any(means));
    });
}

#[test]
fn who_may_not_see_users_gets_no_trace_of_them() {
    let text = event(r#","attributes":{"user":{"partition":3,"offset":17,"names":["plan"]}}"#);
    let parts = ["ann", "r-1", "gold", "secret", r#""attributes":{"user":"#];
    let shown = with(&text, |row| serde_json::to_string(&LiveEvent::of(row, true)).unwrap());
    assert!(parts.iter().all(|part| shown.contains(part)), "{shown}");
    let hidden = with(&text, |row| serde_json::to_string(&LiveEvent::of(row, false)).unwrap());
    assert!(!parts.iter().any(|part| hidden.contains(part)), "{hidden}");
    assert!(hidden.contains(r#""value":"x""#), "{hidden}");
}

#[tokio::test]
async fn what_exceeds_the_rate_is_counted_and_not_sent() {
    let live = live();
    let mut watching = live.watch(LiveFilter::default()).unwrap();
    let all = u64::from(EVENTS_PER_SECOND) + 50;
    let text = event("");
    for _ in 0..all {
        let watcher = Arc::clone(&watching.watcher);
        with(&text, |row| watcher.take(|| LiveEvent::of(row, true)));
    }
    let mut received = 0;
    while watching.events.try_recv().is_ok() {
        received += 1;
    }
    let (matched, left_out) = watching.counts();
    assert_eq!((matched, received + left_out), (all, all));
    assert!(left_out <= 50, "a second may have passed: {left_out}");
    assert_eq!(watching.counts(), (0, 0));
}

#[tokio::test]
async fn a_watcher_waits_until_the_consumer_has_its_positions() {
    let live = live();
    let watching = live.watch(LiveFilter::default()).unwrap();
    assert!(futures_util::FutureExt::now_or_never(watching.positioned()).is_none());
    live.is_positioned.send_replace(true);
    watching.positioned().await;
    // The thread ends with the last watcher, and the next one opens another consumer.
    drop(watching);
    assert!(!live.is_watched());
    assert!(!*live.is_positioned.borrow());
}

#[test]
fn watchers_are_limited_and_make_room_when_they_leave() {
    let live = live();
    let mut watching: Vec<_> =
        (0..WATCHERS_MAX_COUNT).map(|_| live.watch(LiveFilter::default()).unwrap()).collect();
    assert!(live.watch(LiveFilter::default()).is_none());
    watching.pop();
    assert!(live.watch(LiveFilter::default()).is_some());
    drop(watching);
    assert!(live.lock().all.is_empty());
}

#[test]
fn each_result_of_a_bulk_event_is_an_evaluation() {
    let text = r#"{"event_type":"FEATURE_FLAGS_EVALUATED","event_id":"0190b5a0-0000-7000-8000-000000000001",
        "environment":"e","user_id":"ann","flags_version":7,"context":{"plan":"gold"},
        "evaluated_at":"2026-01-15T10:30:00.012345Z","source":{"api":"rest"},"results":[
        {"flag_name":"f","enabled":true,"reason":"TARGETING_MATCH","flag_version":5,"typed_value":"x"},
        {"flag_name":"g","enabled":false,"reason":"DEFAULT"}]}"#;
    let event = Event::read(text.as_bytes()).unwrap();
    let selection = EvaluationSelection { flag_name: Some("g".to_owned()), ..EvaluationSelection::default() };
    let filter = LiveFilter { selection, ..LiveFilter::default() };
    let matching: Vec<_> = event.evaluations().iter().map(|row| filter.matches(row)).collect();
    assert_eq!(matching, [false, true]);
    let shown = serde_json::to_value(LiveEvent::of(&event.evaluations()[1], true)).unwrap();
    assert_eq!(shown["event_id"], "0190b5a0-0000-7000-8040-000000000001");
    assert_eq!((&shown["user_id"], &shown["context"]["plan"]), (&"ann".into(), &"gold".into()));
}

#[test]
fn an_evaluation_of_a_tap_names_it() {
    let source = r#"{"topic":"orders","partition":3,"offset":7,"index":1,"tap":"orders-tap"}"#;
    let text = event("").replace(r#"{"api":"rest"}"#, source);
    let shown = with(&text, |row| serde_json::to_value(LiveEvent::of(row, true)).unwrap());
    assert_eq!(shown["source"], serde_json::from_str::<serde_json::Value>(source).unwrap());
}
