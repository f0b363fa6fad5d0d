//! Creating, changing and deleting local flags.

use chrono::Utc;

use crate::auth::Restrictions;
use crate::flag::local::{self, Family, LocalFlag, Status};
use crate::log_limit::limited;
use crate::message::change::ChangeKind;
use crate::message::definition::Source;

use super::belonging::may_change;
use super::effective_state::EffectiveState;
use super::repository::{ChangeRequest, Decision, Local, LocalCount, Repository, Written, action};
use super::{ManageError, Manager, compile};

/// Maximum local flags of all environments.
pub const MAX_LOCAL_FLAGS: i64 = 20_000;
/// Maximum local flags of one environment: half of the total, so that a test environment cannot use up the limit of
/// production.
pub const MAX_LOCAL_FLAGS_PER_ENVIRONMENT: i64 = 10_000;
/// Maximum size of all local flags as JSON, in bytes. Every instance holds all of them in memory.
pub const MAX_LOCAL_BYTES: i64 = 128 << 20;
/// Maximum size of one environment's local flags as JSON, in bytes.
pub const MAX_LOCAL_BYTES_PER_ENVIRONMENT: i64 = 64 << 20;
/// Updates whose body is at most this many bytes are not checked against the size limits: they cannot fill memory.
const UNCOUNTED_CHANGE_BYTES: usize = 4 << 10;
/// Maximum number of environments that have local flags.
pub const MAX_LOCAL_ENVIRONMENTS: i64 = 64;

/// Author and reason of a change, and the flags that the author may change.
#[derive(Debug, Clone, Copy)]
pub struct AuthorizedActor<'b> {
    pub actor: &'b str,
    pub reason: Option<&'b str>,
    pub within: &'b Restrictions,
}

/// Flag that a request is about.
#[derive(Debug, Clone, Copy)]
pub struct FlagRef<'a> {
    pub environment: &'a str,
    pub name: &'a str,
    /// Revisions that the caller expects the flag to have.
    pub expected: &'a Expected,
}

/// Condition on the current revision for a change to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expected {
    #[default]
    Any,
    OneOf(Vec<i64>),
}

/// A change that was committed. It comes into force even if this process stops.
#[derive(Debug, Clone)]
pub struct ChangeResult {
    pub environment: String,
    pub name: String,
    pub revision: i64,
    /// Whether the change is in force on this instance and was announced to the leader.
    pub in_force: bool,
    /// Parts of the flag that may be unintended.
    pub warnings: Vec<String>,
}

impl Expected {
    fn holds(&self, revision: i64) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(revisions) => revisions.contains(&revision),
        }
    }
}

impl Manager {
    /// Creates a local flag, as parsed by [`local::created`].
    pub async fn create(
        &self,
        environment: &str,
        name: &str,
        mut flag: LocalFlag,
        by: AuthorizedActor<'_>,
    ) -> Result<ChangeResult, ManageError> {
        may_change(by, name, &flag)?;
        compile::checked(name, environment, &flag).await?;
        let repository = self.repository()?;
        self.is_ours(environment, name, "")?;
        has_room(repository, environment, size(&flag)).await?;
        if flag.status == Status::Archived {
            flag.archived_at = Some(Utc::now());
        }
        let warnings = local::warnings(&flag);
        let request = request(environment, name, ChangeKind::Created, by);
        let related = !flag.depends_on.is_empty();
        let written = repository.change_among(request, related, |before, family| {
            let checked = match before {
                Some(_) => Err(ManageError::Exists),
                None => self.check_parents(request, &flag, family),
            };
            checked.map_or_else(Decision::Leave, |()| Decision::Write(Some(flag)))
        });
        let done = self.finish(request, written.await?).await?;
        Ok(ChangeResult { warnings, ..done })
    }

    /// Changes the fields of a local flag that `body` names.
    pub async fn update(
        &self,
        asked: FlagRef<'_>,
        body: &[u8],
        by: AuthorizedActor<'_>,
    ) -> Result<ChangeResult, ManageError> {
        let FlagRef { environment, name, expected } = asked;
        let change = local::updated(body, name, environment).map_err(ManageError::Invalid)?;
        let repository = self.repository()?;
        self.is_ours(environment, name, "")?;
        if body.len() > UNCOUNTED_CHANGE_BYTES {
            has_room_for_bytes(repository, environment, body.len()).await?;
        }
        let request = request(environment, name, ChangeKind::Updated, by);
        let related = change.names("depends_on");
        // Kept alive until the flag is written: compiling it again inside the transaction then uses shared data and is
        // fast.
        let (mut warnings, mut compiled) = (Vec::new(), None);
        if let Some(before) = repository.find(environment, name).await?
            && expected.holds(before.revision)
            && let Ok(flag) = change.apply_to(&before.flag, Utc::now())
        {
            warnings = local::warnings(&flag);
            compiled = Some(compile::checked(name, environment, &flag).await?);
        }
        let written = repository.change_among(request, related, |before, family| {
            let before = match current(before, expected).and_then(|it| changeable(by, name, it)) {
                Ok(before) => before,
                Err(error) => return Decision::Leave(NoChange::Error(error)),
            };
            let flag = match change.apply_to(&before.flag, Utc::now()) {
                Ok(flag) => flag,
                Err(invalid) => return Decision::Leave(NoChange::Error(ManageError::Invalid(invalid))),
            };
            if flag == before.flag {
                return Decision::Leave(NoChange::Same(before.revision));
            }
            let parents = || if related { self.check_parents(request, &flag, family) } else { Ok(()) };
            let allowed = may_change(by, name, &flag).map_err(ManageError::MovedOutside);
            match allowed.and_then(|()| compile::compile(name, environment, &flag)).and_then(|_| parents()) {
                Ok(()) => Decision::Write(Some(flag)),
                Err(error) => Decision::Leave(NoChange::Error(error)),
            }
        });
        let written = written.await?;
        drop(compiled);
        match written {
            Written::NoChange(NoChange::Error(error)) => Err(error),
            Written::NoChange(NoChange::Same(revision)) | Written::ChangeResult { revision, .. } => {
                Ok(ChangeResult { warnings, ..self.settle(request, revision).await })
            }
        }
    }

    /// Deletes a local flag; its evaluations and change log are kept. With `shadowed`, deletes it although a flag of
    /// Unleash with the same name is in force.
    pub async fn delete(
        &self,
        asked: FlagRef<'_>,
        shadowed: bool,
        by: AuthorizedActor<'_>,
    ) -> Result<ChangeResult, ManageError> {
        let FlagRef { environment, name, expected } = asked;
        let repository = self.repository()?;
        if !shadowed {
            let hint = match repository.find(environment, name).await? {
                Some(_) => "; `shadowed=true` deletes the local flag that it shadows",
                None => "",
            };
            self.is_ours(environment, name, hint)?;
        }
        let seen = self.effective_state(environment, name);
        let request = request(environment, name, ChangeKind::Deleted, by);
        let written = repository.change(request, |before| {
            let deletable = current(before, expected).and_then(|it| changeable(by, name, it));
            deletable.map_or_else(Decision::Leave, |_| Decision::Write(None))
        });
        let (revision, before) = match written.await? {
            Written::NoChange(error) => return Err(error),
            Written::ChangeResult { revision, before, .. } => (revision, before),
        };
        // Not being in force proves the deletion only if this instance had seen the flag before, or if a flag of
        // another source is in force.
        let was = before.is_some_and(|before| seen.has(before));
        let gone = was || matches!(seen, EffectiveState::Elsewhere(..));
        let away = async { gone && self.wait_until(environment, name, |now| now.is_rid_of(revision)).await };
        let ((), in_force) = tokio::join!(self.hint(request), away);
        Ok(ChangeResult {
            environment: environment.to_owned(),
            name: name.to_owned(),
            revision,
            in_force,
            warnings: Vec::new(),
        })
    }

    /// Deletes a local flag, whether or not it is in force, without waiting until the deletion is in force.
    pub(super) async fn remove(
        &self,
        asked: FlagRef<'_>,
        by: AuthorizedActor<'_>,
    ) -> Result<(), ManageError> {
        let FlagRef { environment, name, expected } = asked;
        let request = request(environment, name, ChangeKind::Deleted, by);
        let written = self.repository()?.change(request, |before| {
            let deletable = current(before, expected).and_then(|it| changeable(by, name, it));
            deletable.map_or_else(Decision::Leave, |_| Decision::Write(None))
        });
        match written.await? {
            Written::NoChange(error) => Err(error),
            Written::ChangeResult { .. } => {
                self.hint(request).await;
                Ok(())
            }
        }
    }

    /// Checks that the flag's parents exist and that the dependencies have no cycle. Local flags are taken from the
    /// database, all others from the snapshot in force.
    pub(super) fn check_parents(
        &self,
        ChangeRequest { environment, name, .. }: ChangeRequest<'_>,
        flag: &LocalFlag,
        mut family: Family,
    ) -> Result<(), ManageError> {
        let snapshot = self.store.load();
        for other in snapshot.environment(environment).into_iter().flat_map(|flags| flags.iter()) {
            let source = other.provenance.as_ref().map(|provenance| provenance.source);
            if source != Some(Source::Local) {
                family.archived.remove(&*other.name);
                family.parents.insert(other.name.to_string(), other.parents().map(str::to_owned).collect());
            }
        }
        let problems = local::check_dependencies(name, &flag.depends_on, &family);
        if problems.is_empty() { Ok(()) } else { Err(ManageError::Invalid(problems)) }
    }

    pub(super) async fn finish(
        &self,
        request: ChangeRequest<'_>,
        written: Written<ManageError>,
    ) -> Result<ChangeResult, ManageError> {
        match written {
            Written::NoChange(error) => Err(error),
            Written::ChangeResult { revision, .. } => Ok(self.settle(request, revision).await),
        }
    }

    /// Sends a hint to the leader and waits until the revision is in force on this instance.
    pub(super) async fn settle(&self, request: ChangeRequest<'_>, revision: i64) -> ChangeResult {
        let ChangeRequest { environment, name, .. } = request;
        let in_force = self.wait_until(environment, name, |now| now.has(revision));
        let in_force = match self.effective_state(environment, name).has(revision) {
            true => true,
            false => tokio::join!(self.hint(request), in_force).1,
        };
        let (environment, name) = (environment.to_owned(), name.to_owned());
        ChangeResult { environment, name, revision, in_force, warnings: Vec::new() }
    }

    /// Sends a hint to the leader. If it is lost, the change only takes longer: the leader also polls.
    async fn hint(&self, request: ChangeRequest<'_>) {
        let ChangeRequest { environment, name, kind, .. } = request;
        if let Err(error) = self.hints.local(kind, environment, name).await {
            limited!(
                warn,
                environment,
                flag = name,
                %error,
                "the notification of a changed flag could not be written to Kafka; the leader finds the \
                 change at its next poll",
            );
        }
    }

    pub(super) fn is_ours(
        &self,
        environment: &str,
        name: &str,
        hint: &'static str,
    ) -> Result<(), ManageError> {
        match self.known_effective_state(environment, name)? {
            EffectiveState::Elsewhere(source, _) => {
                Err(ManageError::Elsewhere { place: self.place(environment, source), hint })
            }
            _ => Ok(()),
        }
    }

    /// The definition in force. An error while this instance has not loaded the flags, because it cannot know who
    /// manages the flag.
    pub(super) fn known_effective_state(
        &self,
        environment: &str,
        name: &str,
    ) -> Result<EffectiveState, ManageError> {
        if self.store.is_ready() {
            Ok(self.effective_state(environment, name))
        } else {
            Err(ManageError::NotReady)
        }
    }
}

/// Reason why an update wrote nothing.
enum NoChange {
    Error(ManageError),
    /// The flag already has the given values. Holds its revision.
    Same(i64),
}

pub(super) fn request<'w>(
    environment: &'w str,
    name: &'w str,
    kind: ChangeKind,
    by: AuthorizedActor<'w>,
) -> ChangeRequest<'w> {
    ChangeRequest { environment, name, kind, action: action(kind), actor: by.actor, reason: by.reason }
}

pub(super) fn current<'l>(before: Option<&'l Local>, expected: &Expected) -> Result<&'l Local, ManageError> {
    let before = before.ok_or(ManageError::Unknown)?;
    if expected.holds(before.revision) { Ok(before) } else { Err(ManageError::Stale(before.revision)) }
}

/// Returns the flag if `by` may change it.
fn changeable<'l>(by: AuthorizedActor<'_>, name: &str, before: &'l Local) -> Result<&'l Local, ManageError> {
    may_change(by, name, &before.flag)?;
    Ok(before)
}

/// Size of a flag's document as JSON, in bytes.
pub(super) fn size(flag: &LocalFlag) -> usize {
    serde_json::to_vec(flag).map_or(0, |document| document.len())
}

/// Checks the limits for a new local flag of `bytes` bytes in the environment.
pub(super) async fn has_room(
    repository: &Repository,
    environment: &str,
    bytes: usize,
) -> Result<(), ManageError> {
    let count = repository.count(environment).await?;
    may_be_made(&count).and_then(|()| may_grow(&count, bytes))
}

/// Checks the limits for an update that adds up to `bytes` bytes to a local flag.
async fn has_room_for_bytes(
    repository: &Repository,
    environment: &str,
    bytes: usize,
) -> Result<(), ManageError> {
    may_grow(&repository.count(environment).await?, bytes)
}

fn may_be_made(count: &LocalCount) -> Result<(), ManageError> {
    let LocalCount { flags, environments, flags_here, .. } = count;
    if *flags >= MAX_LOCAL_FLAGS {
        let message = format!(
            "the limit of {MAX_LOCAL_FLAGS} local flags is reached; delete flags, or remove archived ones"
        );
        return Err(ManageError::field("name", message));
    }
    if *flags_here >= MAX_LOCAL_FLAGS_PER_ENVIRONMENT {
        let message = format!(
            "the limit of {MAX_LOCAL_FLAGS_PER_ENVIRONMENT} local flags of one environment is reached; delete flags, \
             or remove archived ones"
        );
        return Err(ManageError::field("name", message));
    }
    if *flags_here == 0 && *environments >= MAX_LOCAL_ENVIRONMENTS {
        let message =
            format!("the limit of {MAX_LOCAL_ENVIRONMENTS} environments with local flags is reached");
        return Err(ManageError::field("environment", message));
    }
    Ok(())
}

fn may_grow(count: &LocalCount, bytes: usize) -> Result<(), ManageError> {
    let more = i64::try_from(bytes).unwrap_or(i64::MAX);
    for (bytes, most, whose) in [
        (count.bytes_here, MAX_LOCAL_BYTES_PER_ENVIRONMENT, "of this environment"),
        (count.bytes, MAX_LOCAL_BYTES, "of all environments"),
    ] {
        if bytes.saturating_add(more) > most {
            let message = format!(
                "the local flags {whose} take {bytes} bytes, and the limit is {most}; delete flags, or shorten them"
            );
            return Err(ManageError::field("name", message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_cannot_take_the_room_of_all_others() {
        let count = |flags_here, bytes_here| LocalCount {
            flags: flags_here,
            environments: 1,
            bytes: bytes_here,
            flags_here,
            bytes_here,
        };
        assert!(may_be_made(&count(MAX_LOCAL_FLAGS_PER_ENVIRONMENT - 1, 0)).is_ok());
        let full = count(MAX_LOCAL_FLAGS_PER_ENVIRONMENT, MAX_LOCAL_BYTES_PER_ENVIRONMENT);
        assert!(may_be_made(&full).is_err());
        assert!(may_grow(&full, 1).is_err());
        assert!(may_grow(&full, 0).is_ok());
        // Another environment is not affected.
        let other = LocalCount { flags_here: 0, bytes_here: 0, ..full };
        assert!(may_be_made(&other).is_ok() && may_grow(&other, 1_000).is_ok());
        let all = LocalCount { flags: MAX_LOCAL_FLAGS, bytes: MAX_LOCAL_BYTES, ..other };
        assert!(may_be_made(&all).is_err() && may_grow(&all, 1).is_err());
        let environments = LocalCount { environments: MAX_LOCAL_ENVIRONMENTS, ..other };
        assert!(may_be_made(&environments).is_err());
        assert!(may_be_made(&LocalCount { flags_here: 1, ..environments }).is_ok());
    }
}
