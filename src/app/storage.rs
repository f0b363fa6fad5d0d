//! Starts the database and the parts that write to it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::audit::{self, Pipelines, Sink};
use crate::auth::TokenCache;
use crate::clock::{ClockSkew, OtherClock};
use crate::config::Config;
use crate::database::Database;
use crate::evaluate::Parts;
use crate::experiment::{aggregate, exposure_events};
use crate::health::Reporter;
use crate::kafka::backoff::Backoff;
use crate::kafka::topics;
use crate::log_limit::limited;
use crate::shutdown::{Shutdown, Stage, run_threads};

use super::App;

/// Delay before the second attempt to migrate the database; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Longest delay between attempts to migrate the database.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Interval of the checks that the database answers.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long calls with tokens wait at startup for the migration; a reachable database is usually migrated by then.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the database has been migrated.
pub(super) type Migrated = watch::Receiver<bool>;

/// The database of `config`; `None` if none is configured.
pub(super) fn open(config: &Config) -> anyhow::Result<Option<Database>> {
    let name = format!("flagstream-{}", config.instance);
    let open = |url| Database::open(url, &name);
    Ok(config.database.url.as_ref().map(open).transpose()?)
}

impl App {
    /// Starts the migration, which retries until the database is reachable, and then the database's health check.
    pub(super) fn start_database(&mut self, database: Database) -> Migrated {
        let (migrated, watched) = watch::channel(false);
        let health = self.health.reporter("database", false);
        self.health.address("database", &database);
        let (migrate, metrics) = (self.parts.config.database.migrate, Arc::clone(&self.parts.metrics));
        self.supervisor.start(Stage::Base, "database", move |shutdown| async move {
            if migrate {
                bring_up_to_date(&database, &health, &shutdown).await;
            }
            migrated.send_replace(true);
            look_after(&database, &health, &metrics.clock, &shutdown).await;
            Ok(())
        });
        watched
    }

    /// Starts the cache of API tokens, which is loaded once the database is migrated.
    pub(super) fn start_tokens(&mut self, database: Database, mut migrated: Migrated) -> Arc<TokenCache> {
        let health = self.health.reporter("tokens", false);
        health.starting("waiting for the migration of the database");
        let token_cache = TokenCache::new(database, &self.parts.config.auth);
        let (running, metrics) = (Arc::clone(&token_cache), self.parts.metrics.access.clone());
        self.supervisor.start(Stage::Base, "tokens", move |shutdown| async move {
            let soon = timeout(MIGRATION_TIMEOUT, until_migrated(&mut migrated, &shutdown)).await;
            let ready = match soon {
                Ok(ready) => ready,
                Err(_) => {
                    running.cannot_look_yet();
                    until_migrated(&mut migrated, &shutdown).await
                }
            };
            if !ready {
                return Ok(());
            }
            running.run(shutdown, health, metrics).await
        });
        token_cache
    }

    pub(super) fn start_sink(&mut self, database: Database, mut migrated: Migrated, fit: topics::Fit) {
        let Parts { config, formats, metrics, .. } = self.parts.clone();
        let pipelines = Pipelines::new(&self.health, &config, &metrics);
        let switches = Arc::clone(&self.switches);
        // In the base stage, because it takes no requests in and continues from its last position after a restart.
        self.supervisor.start(Stage::Base, "sink", move |shutdown| async move {
            if !until_migrated(&mut migrated, &shutdown).await
                || !topics::wait_until_fit(fit, &shutdown).await
            {
                return Ok(());
            }
            let counting = aggregate::run(
                database.clone(),
                Arc::clone(&config),
                switches,
                Arc::clone(&metrics),
                shutdown.clone(),
            );
            let counting = tokio::spawn(counting);
            let publishing = exposure_events::run(
                database.clone(),
                Arc::clone(&config),
                Arc::clone(&metrics),
                shutdown.clone(),
            );
            let publishing = tokio::spawn(publishing);
            let parts =
                audit::Parts { config, formats, database, metrics, shutdown: shutdown.clone(), pipelines };
            run_threads(Sink::start(&parts).context("sink")?, shutdown).await?;
            publishing.await.context("exposures")?;
            counting.await.context("experiments")
        });
    }
}

/// Waits for the migration. `false` if `shutdown` comes first.
async fn until_migrated(migrated: &mut Migrated, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        migrated = migrated.wait_for(|migrated| *migrated) => migrated.is_ok(),
    }
}

/// Reports to `health` whether the database answers, and compares the clocks, until `shutdown`.
async fn look_after(database: &Database, health: &Reporter, clock: &ClockSkew, shutdown: &Shutdown) {
    loop {
        let asked = async {
            database.ping().await?;
            database.clock_ahead().await
        };
        let answered = tokio::select! {
            () = shutdown.cancelled() => return,
            answered = asked => answered.map(|ahead| clock.observe(OtherClock::Database, ahead)),
        };
        match answered {
            Ok(()) => health.up(),
            Err(error) => health.down(error),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

/// Migrates the database, with retries until it succeeds or `shutdown`.
async fn bring_up_to_date(database: &Database, health: &Reporter, shutdown: &Shutdown) {
    let (mut backoff, mut told) = (Backoff::new(MIN_BACKOFF, MAX_BACKOFF), None);
    loop {
        let migrated = tokio::select! {
            () = shutdown.cancelled() => return,
            migrated = database.migrate() => migrated,
        };
        let error = match migrated {
            Ok(migrated) => {
                tracing::info!(%database, version = migrated.version, applied = migrated.applied, "database is up to date");
                return;
            }
            Err(error) => error.to_string(),
        };
        // A repeated error is logged only once.
        if told.as_ref() != Some(&error) {
            limited!(error, key = &error, %database, "the database could not be migrated: {error}; retrying");
        }
        health.down(format!("the database could not be migrated: {error}"));
        told = Some(error);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.delay()) => {}
        }
    }
}
