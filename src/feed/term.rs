//! A leader's term: hints and looks in, transactions out, until the partition or the producer is lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chrono::Utc;
use tracing::{debug, warn};

use crate::shutdown::Shutdown;

use super::Feeder;
use super::answer::Answer;
use super::desk::{Desk, Stamp};
use super::diff::Diff;
use super::election::{self, Election, Received};
use super::follow::Follow;
use super::guard::DeletionGuard;
use super::look::Seen;
use super::origin::Origin;
use super::poller::{Look, Pollers, Verdict};
use super::publish::PublishError;

/// How a term ended without failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Shutdown,
    Revoked,
}

/// Why a term had to end.
#[derive(Debug, thiserror::Error)]
pub enum TermError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("the consumer of the changes topic is lost: {0}")]
    Consumer(rdkafka::error::KafkaError),
    #[error("a blocking step was cut short: {0}")]
    Cut(#[from] tokio::task::JoinError),
}

/// One term.
#[derive(Debug)]
pub struct Term<'t> {
    feeder: &'t Feeder,
    election: &'t Election,
    /// Outlives the term: hints that came while there was none.
    follow: &'t mut Follow,
    desk: Arc<Mutex<Desk>>,
    guards: Vec<DeletionGuard>,
    pollers: Pollers,
}

impl TermError {
    /// The metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Publish(PublishError::Fenced(_)) => "fenced",
            Self::Publish(_) => "publish",
            Self::Consumer(_) => "consumer",
            Self::Cut(_) => "internal",
        }
    }
}

impl<'t> Term<'t> {
    /// Takes over: fence, read what is in force, then start to look.
    pub async fn begin(
        feeder: &'t Feeder,
        election: &'t Election,
        follow: &'t mut Follow,
    ) -> Result<Self, TermError> {
        let config = Arc::clone(&feeder.config);
        let desk = tokio::task::spawn_blocking(move || Desk::open(config)).await??;
        let pollers = Pollers::start(&feeder.origins, feeder.config.unleash.refresh_interval);
        let guards = feeder.origins.iter().map(|_| DeletionGuard::default()).collect();
        Ok(Self { feeder, election, follow, desk: Arc::new(Mutex::new(desk)), guards, pollers })
    }

    /// Leads until the partition is lost. A look is judged to its end before anything else happens.
    pub async fn lead(mut self, shutdown: &Shutdown) -> Result<Ended, TermError> {
        loop {
            if !self.election.leads() {
                return Ok(Ended::Revoked);
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(Ended::Shutdown),
                () = self.election.turn(true) => {}
                received = self.election.recv() => match received {
                    Ok(received) => self.hint(received),
                    Err(error) if election::is_final(&error) => return Err(TermError::Consumer(error)),
                    Err(error) => debug!(%error, "the changes topic cannot be read at the moment"),
                },
                look = self.pollers.next() => self.judge(look).await?,
            }
        }
    }

    fn hint(&mut self, received: Received) {
        for place in self.feeder.note_hint(self.follow, received) {
            self.pollers.wake(place);
        }
    }

    async fn judge(&mut self, look: Look) -> Result<(), TermError> {
        let Some(origin) = self.feeder.origins.get(look.place) else {
            return Ok(());
        };
        let Look { place, result, verdict } = look;
        let (accepted, following) = match result {
            Err(error) => {
                self.reset_guard(place);
                self.feeder.note_failure(origin, &error);
                (false, self.looked_in_vain(place))
            }
            Ok(Seen::Unchanged) => {
                self.reset_guard(place);
                self.feeder.note_success(origin, "unchanged", |_| {});
                (true, self.looked_in_vain(place))
            }
            Ok(Seen::Answer { answer, received_at }) => {
                let stamp = Stamp {
                    environment: origin.environment().to_owned(),
                    source: origin.source(),
                    actor: origin.actor(),
                    seen_at: received_at,
                };
                self.answer(origin, place, answer, stamp).await?
            }
        };
        self.commit_hints();
        // A poller that is gone needs no verdict.
        verdict.send(Verdict { accepted, following }).ok();
        Ok(())
    }

    /// Compares, guards, publishes. Returns whether the answer is in force, and whether to keep looking.
    async fn answer(
        &mut self,
        origin: &Origin,
        place: usize,
        answer: Answer,
        stamp: Stamp,
    ) -> Result<(bool, bool), TermError> {
        let (environment, source) = (stamp.environment.clone(), stamp.source);
        let comparing = self.with_desk(move |desk| desk.compare(&environment, source, &answer));
        let (diff, flags, news) = comparing.await?;
        for refused in news {
            let (environment, flag, reason) = (origin.environment(), refused.flag, refused.reason);
            warn!(environment, flag, reason, "flag refused: its last good version stays in force");
        }
        let deletions = diff.deletions().count();
        let guard = self.guards.get_mut(place);
        if guard.is_some_and(|guard| !guard.admits(flags, diff.deletions(), Instant::now())) {
            self.feeder.note_held(origin, deletions, flags);
            return Ok((false, self.looked_in_vain(place)));
        }
        let changed = diff.changes.iter().map(|change| change.flag.as_str());
        let following = self.follow.looked(place, changed, Instant::now());
        let accepted = self.publish(origin, diff, stamp).await?;
        Ok((accepted, following))
    }

    async fn publish(&mut self, origin: &Origin, diff: Diff, stamp: Stamp) -> Result<bool, TermError> {
        let kinds: Vec<_> = diff.changes.iter().map(|change| change.kind()).collect();
        let offset = self.follow.handled().filter(|_| !kinds.is_empty());
        let handled = offset.and_then(|offset| self.election.handled(offset));
        let committed = offset.filter(|_| handled.is_some());
        let (environment, seen_at) = (stamp.environment.clone(), stamp.seen_at);
        let publishing = self.with_desk(move |desk| {
            let published = desk.publish(diff, &stamp, handled.as_ref())?;
            let refused: Vec<_> = desk.refused(&environment).cloned().collect();
            Ok::<_, PublishError>((published, desk.flags(&environment), refused))
        });
        let (published, flags, refused) = publishing.await??;
        if published {
            if let Some(offset) = committed {
                self.follow.committed(offset);
            }
            self.feeder.note_published(origin, &kinds, Utc::now() - seen_at);
        }
        self.feeder.note_success(origin, if kinds.is_empty() { "same" } else { "changed" }, |health| {
            health.flags = flags;
            health.set_refused(refused.iter());
        });
        Ok(published)
    }

    /// Hints that nothing came of.
    fn commit_hints(&mut self) {
        if let Some(offset) = self.follow.handled() {
            self.election.commit(offset);
            self.follow.committed(offset);
        }
    }

    fn looked_in_vain(&mut self, place: usize) -> bool {
        self.follow.looked(place, std::iter::empty(), Instant::now())
    }

    fn reset_guard(&mut self, place: usize) {
        if let Some(guard) = self.guards.get_mut(place) {
            guard.reset();
        }
    }

    /// The desk blocks, on the broker and on compiling thousands of flags.
    async fn with_desk<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Desk) -> R + Send + 'static,
    ) -> Result<R, TermError> {
        let desk = Arc::clone(&self.desk);
        let working = move || work(&mut desk.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(tokio::task::spawn_blocking(working).await?)
    }
}
