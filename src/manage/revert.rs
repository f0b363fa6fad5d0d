//! Restores an earlier state of a local flag.

use chrono::Utc;

use crate::database::on_pool;
use crate::flag::local::{self, LocalFlag, Status};
use crate::message::change::ChangeKind;

use super::belonging::may_change;
use super::change::{AuthorizedActor, ChangeResult, FlagRef, current, has_room, request, size};
use super::repository::{ChangeRequest, Decision, Written};
use super::{ManageError, Manager, compile};

/// State to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// State after a change in the change log.
    Revision(i64),
    /// State of the definition with this version.
    Version(i64),
}

/// Reason why nothing was written.
enum NoChange {
    Error(ManageError),
    Same(i64),
}

const REVISION: &str = "SELECT after::text FROM feature_flag_changes
    WHERE id = $1 AND environment = $2 AND flag_name = $3 AND change_id IS NULL";
const VERSION: &str = "SELECT definition::text FROM feature_flag_versions
    WHERE environment = $1 AND name = $2 AND version = $3 AND source = 'local'";

impl Manager {
    /// Restores an earlier state of a local flag as a new change with the action `reverted`. A deleted flag is created
    /// again.
    pub async fn revert(
        &self,
        asked: FlagRef<'_>,
        target: Target,
        by: AuthorizedActor<'_>,
    ) -> Result<ChangeResult, ManageError> {
        let FlagRef { environment, name, expected } = asked;
        let repository = self.repository()?;
        self.is_ours(environment, name, "")?;
        let mut flag = self.as_it_was(environment, name, target).await?;
        may_change(by, name, &flag).map_err(ManageError::MovedOutside)?;
        compile::checked(name, environment, &flag).await?;
        let exists = repository.find(environment, name).await?.is_some();
        let kind = if exists { ChangeKind::Updated } else { ChangeKind::Created };
        if !exists {
            has_room(repository, environment, size(&flag)).await?;
        }
        let request = ChangeRequest { action: "reverted", ..request(environment, name, kind, by) };
        let related = !flag.depends_on.is_empty();
        let written = repository.change_among(request, related, |before, family| {
            let before = match (before, exists) {
                (None, false) => None,
                (before, _) => match current(before, expected) {
                    Ok(before) => Some(before),
                    Err(error) => return Decision::Leave(NoChange::Error(error)),
                },
            };
            if let Some(Err(outside)) = before.map(|before| may_change(by, name, &before.flag)) {
                return Decision::Leave(NoChange::Error(outside.into()));
            }
            if flag.status == Status::Archived {
                // The archival time is now, unless the flag is already archived.
                flag.archived_at = before.and_then(|it| it.flag.archived_at).or_else(|| Some(Utc::now()));
            }
            if let Some(before) = before.filter(|before| before.flag == flag) {
                return Decision::Leave(NoChange::Same(before.revision));
            }
            // Parents of the earlier state may have been deleted, or may depend on this flag by now.
            match self.check_parents(request, &flag, family) {
                Ok(()) => Decision::Write(Some(flag)),
                Err(error) => Decision::Leave(NoChange::Error(error)),
            }
        });
        match written.await? {
            Written::NoChange(NoChange::Error(error)) => Err(error),
            Written::NoChange(NoChange::Same(revision)) | Written::ChangeResult { revision, .. } => {
                Ok(self.settle(request, revision).await)
            }
        }
    }

    async fn as_it_was(
        &self,
        environment: &str,
        name: &str,
        target: Target,
    ) -> Result<LocalFlag, ManageError> {
        let database = &self.repository()?.database;
        let (field, revision) = match target {
            Target::Revision(revision) => ("revision", Some(revision)),
            Target::Version(version) => {
                let definition: Option<Option<String>> = on_pool!(database, |pool, sql| {
                    let question =
                        sqlx::query_scalar(sql(VERSION)).bind(environment).bind(name).bind(version);
                    question.fetch_optional(pool).await?
                });
                ("version", definition.flatten().as_deref().and_then(local::revision))
            }
        };
        let unknown = || ManageError::field(field, "the flag has no such revision or version");
        let revision = revision.ok_or_else(unknown)?;
        let after: Option<Option<String>> = on_pool!(database, |pool, sql| {
            let question = sqlx::query_scalar(sql(REVISION)).bind(revision).bind(environment).bind(name);
            question.fetch_optional(pool).await?
        });
        let after = after.ok_or_else(unknown)?;
        let after = after.ok_or_else(|| ManageError::field(field, "the flag was deleted at this point"))?;
        serde_json::from_str(&after).map_err(|error| {
            ManageError::field(field, format!("the recorded definition cannot be read: {error}"))
        })
    }
}
