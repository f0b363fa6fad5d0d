//! Checks flags against a token's restrictions, by the definition in force or else by what the database has stored.

use crate::auth::{FlagFacts, Outside, Restrictions};
use crate::database::on_pool;
use crate::flag::local::LocalFlag;

use super::change::AuthorizedActor;
use super::effective_state::EffectiveState;
use super::{ManageError, Manager};

/// Stored project and owner of a flag. Deleted flags keep them.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) project: Option<String>,
    pub(super) owner: Option<String>,
}

/// Reads [`Stored`]. A local flag has no project, even if an earlier flag of this name had one.
const STORED: &str = "SELECT
        CASE WHEN l.name IS NOT NULL AND l.deleted_at IS NULL THEN NULL ELSE f.project END AS project,
        l.document ->> 'owner' AS owner
    FROM feature_flags f LEFT JOIN local_flags l ON l.environment = f.environment AND l.name = f.name
    WHERE f.environment = $1 AND f.name = $2";

impl Manager {
    /// Checks that the restrictions allow a flag. Queries the database only for a flag that is not in force.
    pub async fn check_reach(
        &self,
        within: &Restrictions,
        environment: &str,
        name: &str,
    ) -> Result<(), ManageError> {
        within.check_name(name)?;
        if !within.need_definition() {
            return Ok(());
        }
        let is_in_force = !matches!(self.effective_state(environment, name), EffectiveState::Nobody);
        let stored: Option<(Option<String>, Option<String>)> = match &self.repository {
            Some(repository) if !is_in_force => on_pool!(&repository.database, |pool, sql| {
                sqlx::query_as(sql(STORED)).bind(environment).bind(name).fetch_optional(pool).await?
            }),
            _ => None,
        };
        let (project, owner) = stored.unwrap_or_default();
        Ok(self.is_within(within, environment, name, &Stored { project, owner })?)
    }

    /// Checks that the restrictions allow a flag whose stored project and owner are known.
    pub(super) fn is_within(
        &self,
        within: &Restrictions,
        environment: &str,
        name: &str,
        stored: &Stored,
    ) -> Result<(), Outside> {
        match self.effective_state(environment, name) {
            EffectiveState::Local(_, flag) | EffectiveState::Elsewhere(_, flag) => {
                within.check(&FlagFacts::from(&*flag))
            }
            EffectiveState::Nobody => {
                let (project, owner) = (stored.project.as_deref(), stored.owner.as_deref());
                within.check(&FlagFacts { name, project, owner })
            }
        }
    }
}

/// Checks that `by` may change a local flag, as it is before or after the change.
pub(super) fn may_change(by: AuthorizedActor<'_>, name: &str, flag: &LocalFlag) -> Result<(), Outside> {
    by.within.check(&FlagFacts { name, project: None, owner: flag.owner.as_deref() })
}
