//! Term of a leader: processes hints and poll results, and publishes changes in transactions until the
//! partition or the producer is lost.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::message::definition::Source;
use crate::shutdown::Shutdown;
use crate::store::Missing;

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
use super::refusal::Refused;

/// Regular end of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Shutdown,
    Revoked,
}

/// Error that ended a term.
#[derive(Debug, thiserror::Error)]
pub enum TermError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Flags in force are missing in the topic; the next term writes them again.
    #[error("the topic of definitions has lost {0} flags that are in force")]
    Lost(usize),
    #[error("the consumer of the changes topic is lost: {0}")]
    Consumer(rdkafka::error::KafkaError),
    #[error("a blocking step was cut short: {0}")]
    Cut(#[from] tokio::task::JoinError),
}

/// Term of this instance as the leader.
#[derive(Debug)]
pub struct Term<'t> {
    feeder: &'t Feeder,
    election: &'t Election,
    /// Followed hints. They outlive the term, so that hints received between terms are kept.
    follow: &'t mut Follow,
    desk: Arc<Mutex<Desk>>,
    /// Deletion guards by position of the source and environment.
    guards: HashMap<(usize, String), DeletionGuard>,
    pollers: Pollers,
    /// Definitions that the topics have lost, according to this instance's store.
    missing: watch::Receiver<Arc<Missing>>,
}

/// Result of processing a response.
#[derive(Debug, Default)]
struct Judged {
    /// Whether the response is in force.
    accepted: bool,
    /// Whether the response is held until a second one confirms it.
    held: bool,
    flags: usize,
    changed: Vec<String>,
    refused: Vec<Refused>,
}

impl Judged {
    fn changed(&self) -> impl Iterator<Item = &str> {
        self.changed.iter().map(String::as_str)
    }
}

impl TermError {
    /// Value of the metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Publish(PublishError::Fenced(_)) => "fenced",
            Self::Publish(_) => "publish",
            Self::Consumer(_) => "consumer",
            Self::Cut(_) => "internal",
            Self::Lost(_) => "lost",
        }
    }
}

impl<'t> Term<'t> {
    /// Begins a term: fences former leaders, reads the definitions in force, then starts polling.
    pub async fn begin(
        feeder: &'t Feeder,
        election: &'t Election,
        follow: &'t mut Follow,
    ) -> Result<Self, TermError> {
        let (config, formats) = (Arc::clone(&feeder.config), Arc::clone(&feeder.formats));
        let store = Arc::clone(&feeder.store);
        let mut missing = store.missing();
        let lost = Arc::clone(&missing.borrow_and_update());
        let sources: Vec<_> = feeder.origins.iter().map(Origin::name).collect();
        let opening = move || {
            let mut desk = Desk::open(config, formats, store)?;
            let restored = desk.restore(&lost)?;
            if restored > 0 {
                warn!(flags = restored, "the topic of definitions had lost flags: they are written again");
            }
            desk.begin_sources(&sources, Utc::now())?;
            Ok::<_, PublishError>(desk)
        };
        let desk = tokio::task::spawn_blocking(opening).await??;
        let pollers = Pollers::start(&feeder.origins, feeder.config.unleash.refresh_interval);
        Ok(Self {
            feeder,
            election,
            follow,
            desk: Arc::new(Mutex::new(desk)),
            guards: HashMap::new(),
            pollers,
            missing,
        })
    }

    /// Leads until the partition is lost. Each poll result is processed completely before anything else.
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
                Ok(()) = self.missing.changed() => {
                    let lost = self.missing.borrow_and_update().definitions.len();
                    if lost > 0 {
                        return Err(TermError::Lost(lost));
                    }
                }
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
                let environment = origin.label().to_owned();
                let judged =
                    self.answer(origin, place, answer, stamp(origin, environment, received_at)).await?;
                self.note_judged(origin, &judged);
                (judged.accepted, self.follow.looked(place, judged.changed(), Instant::now()))
            }
            Ok(Seen::Local { answers, received_at }) => {
                let judged = self.local(origin, place, answers, received_at).await?;
                self.note_judged(origin, &judged);
                (judged.accepted, false)
            }
        };
        self.report(origin, accepted).await?;
        self.commit_hints();
        // A poller that has ended needs no verdict.
        verdict.send(Verdict { accepted, following }).ok();
        Ok(())
    }

    /// Publishes the state of a source to all instances by its status record.
    async fn report(&self, origin: &Origin, is_synced: bool) -> Result<(), TermError> {
        let (name, health) = (origin.name(), self.feeder.health.environment(origin.label()));
        let reporting = self.with_desk(move |desk| desk.report(&name, &health, is_synced, Utc::now()));
        Ok(reporting.await??)
    }

    /// Processes the local flags of all environments, including environments that no longer have any.
    async fn local(
        &mut self,
        origin: &Origin,
        place: usize,
        mut answers: BTreeMap<String, Answer>,
        received_at: DateTime<Utc>,
    ) -> Result<Judged, TermError> {
        for environment in self.with_desk(|desk| desk.environments_of(Source::Local)).await? {
            answers.entry(environment).or_default();
        }
        let mut all = Judged { accepted: true, ..Judged::default() };
        for (environment, answer) in answers {
            let judged = self.answer(origin, place, answer, stamp(origin, environment, received_at)).await?;
            all.accepted &= judged.accepted;
            all.held |= judged.held;
            all.flags += judged.flags;
            all.changed.extend(judged.changed);
            all.refused.extend(judged.refused);
        }
        Ok(all)
    }

    /// Compares a response, checks it with the deletion guard, and publishes the changes.
    async fn answer(
        &mut self,
        origin: &Origin,
        place: usize,
        answer: Answer,
        stamp: Stamp,
    ) -> Result<Judged, TermError> {
        let (environment, source) = (stamp.environment.clone(), stamp.source);
        let comparing = self.with_desk(move |desk| desk.compare(&environment, source, &answer));
        let (diff, flags, news) = comparing.await?;
        for refused in news {
            let (environment, flag, reason) = (&stamp.environment, refused.flag, refused.reason);
            warn!(environment, flag, reason, "flag refused: its last good version stays in force");
        }
        let deletions = diff.deletions().count();
        let guard = self.guards.entry((place, stamp.environment.clone())).or_default();
        if !guard.admits(flags, diff.deletions(), Instant::now()) {
            self.feeder.note_held(origin, &stamp.environment, deletions, flags);
            return Ok(Judged { held: true, ..Judged::default() });
        }
        self.publish(place, diff, stamp).await
    }

    async fn publish(&mut self, place: usize, mut diff: Diff, stamp: Stamp) -> Result<Judged, TermError> {
        self.feeder.attribute(place, &mut diff, self.follow).await;
        let changed: Vec<String> = diff.changes.iter().map(|change| change.flag.clone()).collect();
        // Recorded before publication, so that the hint's offset is part of the same transaction.
        self.follow.looked(place, changed.iter().map(String::as_str), Instant::now());
        let kinds: Vec<_> = diff.changes.iter().map(|change| change.kind()).collect();
        let offset = self.follow.handled().filter(|_| !kinds.is_empty());
        let handled = offset.and_then(|offset| self.election.handled(offset));
        let committed = offset.filter(|_| handled.is_some());
        let (environment, seen_at, source) = (stamp.environment.clone(), stamp.seen_at, stamp.source);
        let publishing = self.with_desk(move |desk| {
            let published = desk.publish(diff, &stamp, handled.as_ref())?;
            let refused = desk.refused(&stamp.environment, source);
            Ok::<_, PublishError>((published, desk.flags(&stamp.environment), refused))
        });
        let (accepted, flags, refused) = publishing.await??;
        if accepted {
            if let Some(offset) = committed {
                self.follow.committed(offset);
            }
            self.feeder.note_published(&environment, &kinds, Utc::now() - seen_at);
        }
        Ok(Judged { accepted, held: false, flags, changed, refused })
    }

    fn note_judged(&self, origin: &Origin, judged: &Judged) {
        if judged.held {
            return;
        }
        let outcome = if judged.changed.is_empty() { "same" } else { "changed" };
        self.feeder.note_success(origin, outcome, |health| {
            health.flags = judged.flags;
            health.set_refused(judged.refused.iter());
        });
    }

    /// Commits hints that led to no change.
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
        let of_place = self.guards.iter_mut().filter(|((guarded, _), _)| *guarded == place);
        of_place.for_each(|(_, guard)| guard.reset());
    }

    /// Runs `work` on a blocking thread, because it waits for the broker and may compile thousands of flags.
    async fn with_desk<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Desk) -> R + Send + 'static,
    ) -> Result<R, TermError> {
        let desk = Arc::clone(&self.desk);
        let working = move || work(&mut desk.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(tokio::task::spawn_blocking(working).await?)
    }
}

fn stamp(origin: &Origin, environment: String, seen_at: DateTime<Utc>) -> Stamp {
    Stamp { environment, source: origin.source(), actor: origin.actor(), seen_at }
}
