//! Tests of the whole service on the embedded broker.

use std::time::Instant;

use crate::config::{Profile, load_from};
use crate::dev::{Broker, embed};
use crate::feed::FileSource;
use crate::health::State;

use super::*;

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A broker without topics, and a configuration that uses it.
fn scene(folder: &std::path::Path) -> anyhow::Result<(Broker, Config)> {
    let variables = [("FLAGSTREAM_HTTP__LISTEN", "127.0.0.1:0"), ("FLAGSTREAM_INSTANCE", "test")];
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let mut config = load_from(None, variables, Profile::Dev)?.config;
    let broker = Broker::start()?;
    embed(&mut config, Some(broker.address()))?;
    config.state_dir = folder.join("state");
    config.database.url = Some(crate::config::Secret::new("sqlite::memory:"));
    Ok((broker, config))
}

fn flag_source(folder: &std::path::Path) -> anyhow::Result<FlagSource> {
    let path = folder.join("flags.json");
    let flags = r#"{"version": 2, "features": [{"name": "a", "enabled": true, "strategies": []}]}"#;
    std::fs::write(&path, flags)?;
    Ok(FlagSource::File(FileSource::new("development", path)))
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {TEST_TIMEOUT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_topics_gets_ready_and_stops_in_order() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (broker, config) = scene(folder.path())?;
    let topics = config.clone();
    let app = App::start(Arc::new(config), Role::ALL, vec![flag_source(folder.path())?], Topics::LookedAfter)
        .await?;
    let (health, store) = (Arc::clone(&app.health), Arc::clone(&app.parts.store));
    let kafka = || health.overview().parts.get("kafka").map(|part| part.report.clone());
    until("missing topics are told", || kafka().is_some_and(|kafka| kafka.state == State::Down)).await;
    let detail = kafka().and_then(|kafka| kafka.detail).unwrap_or_default();
    assert!(detail.contains("flagstream topics apply"), "{detail}");
    assert!(!health.is_ready());

    broker.create_topics(&topics)?;
    until("ready", || health.is_ready()).await;
    until("the flag is in force", || store.version() > 0).await;
    assert_eq!(kafka().map(|kafka| kafka.state), Some(State::Up));

    let begun = Instant::now();
    app.run_until(async { Ok(()) }).await?;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(!health.is_ready());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_ends_the_start() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (_broker, mut config) = scene(folder.path())?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    config.http.listen = taken.local_addr()?;
    let error = App::start(Arc::new(config), Role::ALL, Vec::new(), Topics::LookedAfter).await.err();
    let error = error.map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(error.contains("FLAGSTREAM_HTTP__LISTEN"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_for_a_while_after_readiness_has_ended() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (broker, mut config) = scene(folder.path())?;
    // Longer than any wait of this test, which does not wait for its end.
    config.http.drain_delay = Duration::from_secs(60);
    broker.create_topics(&config)?;
    let app =
        App::start(Arc::new(config), Role::ALL, vec![flag_source(folder.path())?], Topics::Made).await?;
    let health = Arc::clone(&app.health);
    until("ready", || health.is_ready()).await;
    let address = health.overview().addresses["http"].clone();
    let stopping = tokio::spawn(app.run_until(async { Ok(()) }));
    until("not ready any more", || !health.is_ready()).await;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let ask = async |path: &str| client.get(format!("http://{address}{path}")).send().await;
    assert_eq!(ask("/health/ready").await?.status(), 503);
    assert_eq!(ask("/health/live").await?.status(), 200);
    assert_eq!(ask("/flags?environment=development").await?.status(), 200);
    assert!(!stopping.is_finished());
    stopping.abort();
    Ok(())
}
