//! Feeder: publishes the flags of all sources to Kafka.
//!
//! ```text
//!  feature-flag-changes ─ hint ─► follow ─ poll now ─┐
//!                                                    ▼
//!  Unleash, flag file,                              │
//!  local flags ◄─ poll ─ poller ─ answer ─► term ─► desk: diff ─► guard ─► one transaction
//! ```
//!
//! Every instance runs a [`Feeder`], and one of them leads: the owner of the single partition of the changes
//! topic (`election`). A leader's `term` starts by fencing its predecessor and reading the definitions in
//! force. After any failure with an unknown outcome it starts again from there.

mod admin;
pub mod answer;
mod definition_writer;
pub(crate) mod definitions;
mod diff;
mod election;
mod fetch;
mod file;
mod follow;
mod guard;
mod health;
pub mod hint;
mod hints;
mod local;
mod pace;
mod poller;
pub(crate) mod publish;
mod refusal;
mod report;
mod source;
mod state;
mod telemetry;
mod term;
pub(crate) mod unleash;
pub mod usage;
mod who;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info};

use crate::config::Config;
use crate::kafka::backoff::Backoff;
use crate::metrics::Metrics;
use crate::schema_registry::Formats;
use crate::shutdown::Shutdown;
use crate::store::Store;

pub use admin::AdminFlag;
pub use fetch::{FetchError, FetchResult};
pub use file::FileSource;
pub use health::{EnvironmentHealth, Health, HealthView, Role, SourceError};
pub use hints::Hints;
pub use local::LocalSource;
pub use refusal::Refused;
pub use report::report_usage;
pub use source::{EVERYWHERE, FlagSource};
pub use unleash::UnleashSource;
pub use usage::Usage;

use election::Election;
use follow::Follow;
use publish::PublishError;
use term::{Ended, Term, TermError};

/// Maximum pause between terms. It is short, so that a leader is elected soon after a broker has recovered.
const TERM_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The feeder of one instance.
#[derive(Debug)]
pub struct Feeder {
    config: Arc<Config>,
    formats: Arc<Formats>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    health: HealthView,
    flag_sources: Vec<FlagSource>,
}

/// Action after a term.
enum Next {
    Stop,
    /// Wait for leadership again with the same group membership.
    Stay,
    /// Join the consumer group again, because the membership is outdated or lost.
    Rejoin,
}

/// Sources for all configured Unleash environments; none if no Unleash is configured.
pub fn unleash_sources(config: &Config) -> anyhow::Result<Vec<FlagSource>> {
    let Some(client) = unleash::Client::new(&config.unleash)? else {
        return Ok(Vec::new());
    };
    let environments = config.unleash.environments.iter().cloned();
    let flag_source = |environment| FlagSource::Unleash(UnleashSource::new(Arc::clone(&client), environment));
    Ok(environments.map(flag_source).collect())
}

impl Feeder {
    /// Creates a feeder. `flag_sources` contains at most one source per environment, and one for local flags.
    pub fn new(
        config: Arc<Config>,
        formats: Arc<Formats>,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
        flag_sources: Vec<FlagSource>,
    ) -> Self {
        Self { config, formats, store, metrics, health: HealthView::default(), flag_sources }
    }

    pub fn health(&self) -> HealthView {
        self.health.clone()
    }

    /// Runs until `shutdown` and leads whenever this instance is elected. An open transaction is completed.
    /// An error means that the configuration cannot work.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        if self.flag_sources.is_empty() {
            info!(
                "no source of flags is configured; this instance does not take part in the leader election"
            );
            shutdown.cancelled().await;
            return Ok(());
        }
        let mut backoff = Backoff::new(pace::BACKOFF_MIN, TERM_BACKOFF_MAX);
        loop {
            let election = Election::join(&self.config, &self.formats)?;
            let next = self.stand(&election, &shutdown, &mut backoff).await;
            self.set_role(Role::Follower);
            // Leaving the group blocks.
            tokio::task::spawn_blocking(move || drop(election)).await?;
            match next {
                Next::Stop => return Ok(()),
                Next::Stay | Next::Rejoin => self.pause(&mut backoff, &shutdown).await,
            }
        }
    }

    /// Runs the terms of one membership in the consumer group.
    async fn stand(&self, election: &Election, shutdown: &Shutdown, backoff: &mut Backoff) -> Next {
        let mut follow = self.follow();
        loop {
            match self.wait_for_turn(election, &mut follow, shutdown).await {
                Next::Stay => {}
                other => return other,
            }
            self.set_role(Role::Starting);
            let ended = self.term(election, &mut follow, shutdown, backoff).await;
            self.set_role(Role::Follower);
            match self.after(ended) {
                Next::Stay if election.leads() => {
                    self.pause_in_group(election, &mut follow, backoff, shutdown).await;
                }
                Next::Stay => follow = self.follow(),
                other => return other,
            }
        }
    }

    /// Waits until this instance leads. Returns `Stay` when it does.
    async fn wait_for_turn(&self, election: &Election, follow: &mut Follow, shutdown: &Shutdown) -> Next {
        while !election.leads() {
            tokio::select! {
                () = shutdown.cancelled() => return Next::Stop,
                () = election.turn(false) => {}
                received = election.recv() => match received {
                    Ok(received) => drop(self.note_hint(follow, received)),
                    Err(error) if election::is_final(&error) => {
                        self.note_term_failed("consumer", &error.to_string());
                        return Next::Rejoin;
                    }
                    Err(error) => debug!(%error, "the changes topic cannot be read; retrying"),
                },
            }
        }
        if shutdown.is_cancelled() { Next::Stop } else { Next::Stay }
    }

    async fn term(
        &self,
        election: &Election,
        follow: &mut Follow,
        shutdown: &Shutdown,
        backoff: &mut Backoff,
    ) -> Result<Ended, TermError> {
        let term = Term::begin(self, election, follow).await?;
        backoff.reset();
        self.note_leading();
        term.lead(shutdown).await
    }

    fn after(&self, ended: Result<Ended, TermError>) -> Next {
        match ended {
            Ok(Ended::Shutdown) => Next::Stop,
            Ok(Ended::Revoked) => {
                info!("this instance is no longer the leader of the feeder");
                self.count_term("revoked");
                Next::Stay
            }
            Err(error) => {
                self.note_term_failed(error.reason(), &error.to_string());
                match error {
                    // A new producer would fence the successor, so the group is joined again first.
                    TermError::Publish(PublishError::Fenced(_)) | TermError::Consumer(_) => Next::Rejoin,
                    TermError::Publish(_) | TermError::Cut(_) | TermError::Lost(_) => Next::Stay,
                }
            }
        }
    }

    fn follow(&self) -> Follow {
        Follow::new(self.flag_sources.iter().map(FlagSource::followable))
    }

    /// Pauses between two terms of one membership. It keeps receiving, so that rebalances are processed and
    /// hints are kept for the next term.
    async fn pause_in_group(
        &self,
        election: &Election,
        follow: &mut Follow,
        backoff: &mut Backoff,
        shutdown: &Shutdown,
    ) {
        let pause = self.pause(backoff, shutdown);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return,
                received = election.recv() => if let Ok(received) = received {
                    self.note_hint(follow, received);
                },
            }
        }
    }

    async fn pause(&self, backoff: &mut Backoff, shutdown: &Shutdown) {
        tokio::select! {
            () = tokio::time::sleep(backoff.jittered().max(pace::BACKOFF_MIN)) => {}
            () = shutdown.cancelled() => {}
        }
    }
}
