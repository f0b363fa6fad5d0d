//! Term of a leader: processes hints and poll results, and publishes changes in transactions until the
//! partition or the producer is lost.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tracing::debug;

use crate::log_limit::limited;
use crate::message::definition::Source;
use crate::shutdown::Shutdown;
use crate::store::Missing;

use super::Feeder;
use super::answer::Answer;
use super::definition_writer::{ChangeMeta, DefinitionWriter};
use super::diff::Diff;
use super::election::{self, Election, Received};
use super::fetch::FetchResult;
use super::follow::Follow;
use super::guard::DeletionGuard;
use super::poller::{Decision, PolledResult, Pollers};
use super::publish::PublishError;
use super::refusal::Refused;
use super::source::FlagSource;

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
    #[error("the definitions topic lacks {0} flags that are in force")]
    Lost(usize),
    #[error("the consumer of the changes topic failed: {0}")]
    Consumer(rdkafka::error::KafkaError),
    #[error("a blocking task was aborted: {0}")]
    Cut(#[from] tokio::task::JoinError),
}

/// Term of this instance as the leader.
#[derive(Debug)]
pub struct Term<'t> {
    feeder: &'t Feeder,
    election: &'t Election,
    /// Followed hints. They outlive the term, so that hints received between terms are kept.
    follow: &'t mut Follow,
    writer: Arc<Mutex<DefinitionWriter>>,
    /// Deletion guards by position of the source and environment.
    guards: HashMap<(usize, String), DeletionGuard>,
    pollers: Pollers,
    /// Definitions that the topics have lost, according to this instance's store.
    missing: watch::Receiver<Arc<Missing>>,
}

/// Result of processing a response.
#[derive(Debug, Default)]
struct Reconciled {
    /// Whether the response is in force.
    accepted: bool,
    /// Whether the response is held until a second one confirms it.
    held: bool,
    /// Whether a part of the changes is not published, because another one was refused by the broker. The source is
    /// polled again at once, and that flag is left out.
    unfinished: bool,
    flags: usize,
    changed: Vec<String>,
    refused: Vec<Refused>,
}

impl Reconciled {
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
        let sources: Vec<_> = feeder.flag_sources.iter().map(FlagSource::name).collect();
        let opening = move || {
            let mut writer = DefinitionWriter::open(config, formats, store)?;
            let restored = writer.restore(&lost)?;
            if restored > 0 {
                limited!(
                    warn,
                    flags = restored,
                    "the definitions topic lacked flags that are in force; they were written again",
                );
            }
            writer.begin_sources(&sources, Utc::now())?;
            Ok::<_, PublishError>(writer)
        };
        let writer = tokio::task::spawn_blocking(opening).await??;
        let pollers = Pollers::start(&feeder.flag_sources, feeder.config.unleash.refresh_interval);
        Ok(Self {
            feeder,
            election,
            follow,
            writer: Arc::new(Mutex::new(writer)),
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
                    Err(error) => debug!(%error, "the changes topic cannot be read; retrying"),
                },
                look = self.pollers.next() => self.reconcile(look).await?,
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

    async fn reconcile(&mut self, look: PolledResult) -> Result<(), TermError> {
        let Some(flag_source) = self.feeder.flag_sources.get(look.place) else {
            return Ok(());
        };
        let PolledResult { place, result, decision } = look;
        let (accepted, following) = match result {
            Err(error) => {
                self.reset_guard(place);
                self.feeder.note_failure(flag_source, &error);
                (false, self.poll_without_change(place))
            }
            Ok(FetchResult::Unchanged) => {
                self.reset_guard(place);
                self.feeder.note_success(flag_source, "unchanged", |_| {});
                (true, self.poll_without_change(place))
            }
            Ok(FetchResult::Answer { answer, received_at }) => {
                let environment = flag_source.label().to_owned();
                let reconciled = self
                    .answer(flag_source, place, answer, meta(flag_source, environment, received_at))
                    .await?;
                self.note_reconciled(flag_source, &reconciled);
                let following = self.follow.looked(place, reconciled.changed(), Instant::now());
                (reconciled.accepted, following || reconciled.unfinished)
            }
            Ok(FetchResult::Local { answers, received_at }) => {
                let reconciled = self.local(flag_source, place, answers, received_at).await?;
                self.note_reconciled(flag_source, &reconciled);
                (reconciled.accepted, reconciled.unfinished)
            }
        };
        self.report(flag_source, accepted).await?;
        self.commit_hints();
        // A poller that has ended needs no verdict.
        decision.send(Decision { accepted, following }).ok();
        Ok(())
    }

    /// Publishes the state of a source to all instances by its status record.
    async fn report(&self, flag_source: &FlagSource, is_synced: bool) -> Result<(), TermError> {
        let (name, health) = (flag_source.name(), self.feeder.health.environment(flag_source.label()));
        let reporting = self.with_writer(move |writer| writer.report(&name, &health, is_synced, Utc::now()));
        Ok(reporting.await??)
    }

    /// Processes the local flags of all environments, including environments that no longer have any.
    async fn local(
        &mut self,
        flag_source: &FlagSource,
        place: usize,
        mut answers: BTreeMap<String, Answer>,
        received_at: DateTime<Utc>,
    ) -> Result<Reconciled, TermError> {
        for environment in self.with_writer(|writer| writer.environments_of(Source::Local)).await? {
            answers.entry(environment).or_default();
        }
        let mut all = Reconciled { accepted: true, ..Reconciled::default() };
        for (environment, answer) in answers {
            let reconciled =
                self.answer(flag_source, place, answer, meta(flag_source, environment, received_at)).await?;
            all.accepted &= reconciled.accepted;
            all.held |= reconciled.held;
            all.unfinished |= reconciled.unfinished;
            all.flags += reconciled.flags;
            all.changed.extend(reconciled.changed);
            all.refused.extend(reconciled.refused);
        }
        Ok(all)
    }

    /// Compares a response, checks it with the deletion guard, and publishes the changes.
    async fn answer(
        &mut self,
        flag_source: &FlagSource,
        place: usize,
        answer: Answer,
        meta: ChangeMeta,
    ) -> Result<Reconciled, TermError> {
        let (environment, source) = (meta.environment.clone(), meta.source);
        let comparing = self.with_writer(move |writer| writer.compare(&environment, source, &answer));
        let (diff, flags, news) = comparing.await?;
        for refused in news {
            let (environment, flag, reason) = (&meta.environment, refused.flag, refused.reason);
            limited!(
                warn,
                key = &flag,
                environment,
                flag,
                reason,
                "definition refused; the flag's last valid version stays in force",
            );
        }
        let deletions = diff.deletions().count();
        let guard = self.guards.entry((place, meta.environment.clone())).or_default();
        if !guard.admits(flags, diff.deletions(), Instant::now()) {
            self.feeder.note_held(flag_source, &meta.environment, deletions, flags);
            return Ok(Reconciled { held: true, ..Reconciled::default() });
        }
        self.publish(place, diff, meta).await
    }

    async fn publish(
        &mut self,
        place: usize,
        mut diff: Diff,
        meta: ChangeMeta,
    ) -> Result<Reconciled, TermError> {
        self.feeder.attribute(place, &mut diff, self.follow).await;
        let changed: Vec<String> = diff.changes.iter().map(|change| change.flag.clone()).collect();
        // Determined before publication, so that the hint's offset is part of the same transaction, but not in force
        // before the transaction is: a hint whose change is not published must stay pending.
        let mut follow = self.follow.clone();
        follow.looked(place, changed.iter().map(String::as_str), Instant::now());
        let kinds: Vec<_> = diff.changes.iter().map(|change| change.kind()).collect();
        let offset = follow.handled().filter(|_| !kinds.is_empty());
        let handled = offset.and_then(|offset| self.election.handled(offset));
        let committed = offset.filter(|_| handled.is_some());
        let (environment, seen_at, source) = (meta.environment.clone(), meta.seen_at, meta.source);
        let publishing = self.with_writer(move |writer| {
            let published = writer.publish(diff, &meta, handled.as_ref())?;
            let refused = writer.refused(&meta.environment, source);
            Ok::<_, PublishError>((published, writer.flags(&meta.environment), refused))
        });
        let (accepted, flags, refused) = publishing.await??;
        if !accepted {
            return Ok(Reconciled { unfinished: true, flags, refused, ..Reconciled::default() });
        }
        *self.follow = follow;
        if let Some(offset) = committed {
            self.follow.committed(offset);
        }
        self.feeder.note_published(&environment, &kinds, Utc::now() - seen_at);
        Ok(Reconciled { accepted, flags, changed, refused, ..Reconciled::default() })
    }

    fn note_reconciled(&self, flag_source: &FlagSource, reconciled: &Reconciled) {
        if reconciled.held || reconciled.unfinished {
            return;
        }
        let outcome = if reconciled.changed.is_empty() { "same" } else { "changed" };
        self.feeder.note_success(flag_source, outcome, |health| {
            health.flags = reconciled.flags;
            health.set_refused(reconciled.refused.iter());
        });
    }

    /// Commits hints that led to no change.
    fn commit_hints(&mut self) {
        if let Some(offset) = self.follow.handled() {
            self.election.commit(offset);
            self.follow.committed(offset);
        }
    }

    fn poll_without_change(&mut self, place: usize) -> bool {
        self.follow.looked(place, std::iter::empty(), Instant::now())
    }

    fn reset_guard(&mut self, place: usize) {
        let of_place = self.guards.iter_mut().filter(|((guarded, _), _)| *guarded == place);
        of_place.for_each(|(_, guard)| guard.reset());
    }

    /// Runs `work` on a blocking thread, because it waits for the broker and may compile thousands of flags.
    async fn with_writer<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut DefinitionWriter) -> R + Send + 'static,
    ) -> Result<R, TermError> {
        let writer = Arc::clone(&self.writer);
        let working = move || work(&mut writer.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(tokio::task::spawn_blocking(working).await?)
    }
}

fn meta(flag_source: &FlagSource, environment: String, seen_at: DateTime<Utc>) -> ChangeMeta {
    ChangeMeta { environment, source: flag_source.source(), actor: flag_source.actor(), seen_at }
}
