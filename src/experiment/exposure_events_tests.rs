//! Events of exposures: which of them are queued, and what they contain.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::config::Secret;
use crate::database::SqliteDatabase;
use crate::experiment::exposure::{Exposures, KnownExposures, Shown};
use crate::experiment::key::key;
use crate::experiment::tables::Tables;

fn running() -> Running {
    Running {
        id: 1,
        name: "checkout-test".to_owned(),
        environment: "production".to_owned(),
        flag_name: "checkout".to_owned(),
        started_at: 0,
        stopped_at: None,
        attributes: Vec::new(),
    }
}

fn exposure(variant: &str, exposed_at: i64) -> Exposure {
    let mut exposures = Exposures::default();
    exposures.add(
        1,
        key("u"),
        3,
        Shown { variant, assignment: None, evaluated_at: exposed_at, place: 0, attributes: None },
    );
    exposures.unknown(&KnownExposures::default()).exposures.remove(0)
}

async fn database(folder: &tempfile::TempDir) -> SqliteDatabase {
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    let database = Database::open(&Secret::new(url), "test").unwrap();
    database.migrate().await.unwrap();
    let Database::Sqlite(sqlite) = database else { unreachable!() };
    sqlite
}

#[test]
fn an_event_says_who_saw_what_and_how_it_was_chosen() {
    let evaluated = Evaluated {
        user_id: "u",
        assignment: Some(r#"{"how":"drawn","rule":1,"weights":{"a":500,"b":500}}"#),
        evaluation_id: Some(Uuid::from_u128(5)),
        context: Some(r#"{"plan":"gold"}"#),
    };
    let queued = QueuedEvent::new(&running(), &exposure("a", 1_500_000), evaluated).unwrap();
    assert_eq!((queued.user_id.as_str(), queued.user_key), ("u", key("u")));
    let mut event: Value = serde_json::from_str(&queued.event).unwrap();
    let id = event["event_id"].take();
    assert_eq!(
        event,
        json!({"event_type": "FEATURE_FLAG_EXPOSED", "event_id": null, "experiment": "checkout-test",
            "environment": "production", "flag_name": "checkout", "flag_version": 3, "variant": "a", "user_id": "u",
            "assignment": {"how": "drawn", "rule": 1, "weights": {"a": 500, "b": 500}},
            "exposed_at": "1970-01-01T00:00:01.500000Z", "evaluation_id": "00000000-0000-0000-0000-000000000005",
            "metadata": {"plan": "gold"}})
    );
    // The id depends on neither the variant nor the time.
    let again = QueuedEvent::new(&running(), &exposure("b", 7), evaluated).unwrap();
    let again: Value = serde_json::from_str(&again.event).unwrap();
    assert_eq!(again["event_id"], id);
    let other = Running { name: "other".to_owned(), ..running() };
    let other = QueuedEvent::new(&other, &exposure("a", 1_500_000), evaluated).unwrap();
    assert!(!other.event.contains(id.as_str().unwrap()));
}

#[tokio::test]
async fn only_an_exposure_that_became_the_first_has_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(&folder).await;
    let mut connection = database.pool.acquire().await.unwrap();
    for (variant, at, is_first) in [
        ("a", 20, true),
        ("a", 20, false),
        ("a", 30, false),
        // Crossed: the row changes, and its first exposure does not.
        ("b", 30, false),
        ("b", 10, true),
        ("b", 10, false),
    ] {
        let written = connection.expose(&[exposure(variant, at)]).await.unwrap();
        assert_eq!(!written.is_empty(), is_first, "{variant} at {at}");
    }
}

#[tokio::test]
async fn events_of_an_experiment_that_is_being_started_wait() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(&folder).await;
    let mut connection = database.pool.acquire().await.unwrap();
    let queued = |experiment_id, event: &str| QueuedEvent {
        experiment_id,
        user_key: key("u"),
        user_id: "u".to_owned(),
        event: event.to_owned(),
    };
    connection.enqueue(&[queued(1, "of 1"), queued(2, "of 2"), queued(3, "of 3")]).await.unwrap();
    let experiments = "INSERT INTO experiments (id, environment, name, flag_name, design, created_by, started_at, backfilling)
        VALUES (1, 'e', 'one', 'f', '{}', 'me', 0, true), (2, 'e', 'two', 'f', '{}', 'me', 0, false)";
    sqlx::query(experiments).execute(&mut *connection).await.unwrap();
    let next = async |connection: &mut sqlx::SqliteConnection| -> Vec<String> {
        let next: Vec<Queued> = sqlx::query_as(NEXT).bind(BATCH_EVENTS).fetch_all(connection).await.unwrap();
        next.into_iter().map(|(_, _, event)| event).collect()
    };
    assert_eq!(next(&mut connection).await, ["of 2"]);
    sqlx::query("UPDATE experiments SET backfilling = false").execute(&mut *connection).await.unwrap();
    assert_eq!(next(&mut connection).await, ["of 1", "of 2"]);
}
