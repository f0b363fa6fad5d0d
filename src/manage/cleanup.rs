//! Removal of local flags that were archived long ago. Their evaluations and change log are kept.

use std::time::Duration;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use serde::Serialize;

use crate::auth::Restrictions;
use crate::database::on_pool;
use crate::shutdown::Shutdown;

use super::belonging::Stored;
use super::change::{AuthorizedActor, Expected, FlagRef};
use super::{ManageError, Manager};

/// Maximum flags that one call removes.
const REMOVED_MAX: usize = 1_000;
/// Maximum local flags that are read.
const FLAGS_MAX: i64 = 20_000;

/// Result of a cleanup.
#[derive(Debug, Serialize)]
pub struct Cleaned {
    pub dry_run: bool,
    pub older_than_days: u32,
    /// Flags that were removed, or would be removed.
    pub flags: Vec<CleanedFlag>,
    /// Whether there are more flags than one call removes.
    pub more: bool,
}

#[derive(Debug, Serialize)]
pub struct CleanedFlag {
    pub name: String,
    pub environment: String,
    pub owner: Option<String>,
    pub archived_at: DateTime<Utc>,
    pub revision: i64,
    pub removed: bool,
    /// Reason why the flag was not removed.
    pub error: Option<String>,
}

/// Time of day (UTC) of the nightly cleanup, outside working hours.
const NIGHT: NaiveTime = match NaiveTime::from_hms_opt(3, 0, 0) {
    Some(night) => night,
    None => NaiveTime::MIN,
};
const LONGEST: Duration = Duration::from_secs(86_400);

const FLAGS: &str = "SELECT environment, name, revision, document::text, updated_at FROM local_flags
    WHERE deleted_at IS NULL ORDER BY environment, name LIMIT $1";

type Row = (String, String, i64, String, DateTime<Utc>);

impl Manager {
    /// Removes flags that were archived more than `older_than_days` days ago, in `environments` or in all.
    pub async fn cleanup(
        &self,
        environments: Option<&[&str]>,
        older_than_days: u32,
        dry_run: bool,
        by: AuthorizedActor<'_>,
    ) -> Result<Cleaned, ManageError> {
        let database = &self.repository()?.database;
        let before = database.checked_now().await? - TimeDelta::days(i64::from(older_than_days));
        let rows: Vec<Row> = on_pool!(database, |pool, sql| {
            sqlx::query_as(sql(FLAGS)).bind(FLAGS_MAX).fetch_all(pool).await?
        });
        let seen = |row: &Row| environments.is_none_or(|all| all.contains(&row.0.as_str()));
        let mut flags: Vec<CleanedFlag> = rows.into_iter().filter(seen).filter_map(archived).collect();
        flags.retain(|flag| {
            let stored = Stored { project: None, owner: flag.owner.clone() };
            let is_within = self.is_within(by.within, &flag.environment, &flag.name, &stored).is_ok();
            flag.archived_at < before && is_within
        });
        let more = flags.len() > REMOVED_MAX;
        flags.truncate(REMOVED_MAX);
        if !dry_run {
            for flag in &mut flags {
                // Not removed if it was changed since it was read.
                let expected = Expected::OneOf(vec![flag.revision]);
                let asked = FlagRef { environment: &flag.environment, name: &flag.name, expected: &expected };
                match self.remove(asked, by).await {
                    Ok(_) => flag.removed = true,
                    Err(error) => flag.error = Some(error.to_string()),
                }
            }
        }
        Ok(Cleaned { dry_run, older_than_days, flags, more })
    }
}

/// Runs a cleanup every night until `shutdown`. Every instance does; the second one finds nothing left to remove.
pub async fn run_nightly_cleanup(manager: &Manager, older_than_days: u32, shutdown: &Shutdown) {
    let reason = format!("archived for more than {older_than_days} days");
    let by = AuthorizedActor { actor: "flagstream", reason: Some(&reason), within: Restrictions::none() };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(until_night(Utc::now())) => {}
        }
        match manager.cleanup(None, older_than_days, false, by).await {
            Ok(cleaned) => {
                let removed = cleaned.flags.iter().filter(|flag| flag.removed).count();
                let failed = cleaned.flags.len() - removed;
                tracing::info!(removed, failed, more = cleaned.more, "archived flags were removed");
            }
            Err(error) => {
                // Not limited: once a night.
                tracing::warn!(%error, "removal of archived flags failed; the next attempt is tomorrow night")
            }
        }
    }
}

fn until_night(now: DateTime<Utc>) -> Duration {
    let tonight = now.date_naive().and_time(NIGHT).and_utc();
    let next = if tonight > now { tonight } else { tonight + TimeDelta::days(1) };
    (next - now).to_std().unwrap_or(LONGEST)
}

/// Reads an archived flag from a row; `None` if it is not archived. Without `archived_at`, the time of its last change
/// counts.
fn archived((environment, name, revision, document, updated_at): Row) -> Option<CleanedFlag> {
    let document: serde_json::Value = serde_json::from_str(&document).ok()?;
    let member = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
    let archived_at = member("archived_at").and_then(|at| DateTime::parse_from_rfc3339(at).ok());
    let archived_at = archived_at.map_or(updated_at, |at| at.to_utc());
    (member("status") == Some("archived")).then(|| CleanedFlag {
        owner: member("owner").map(str::to_owned),
        name,
        environment,
        archived_at,
        revision,
        removed: false,
        error: None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_next_night_is_never_now() {
        for (now, hours) in
            [("2026-01-15T01:00:00Z", 2), ("2026-01-15T03:00:00Z", 24), ("2026-12-31T04:00:00Z", 23)]
        {
            let night = until_night(now.parse().unwrap());
            assert_eq!(night, Duration::from_secs(hours * 3_600), "{now}");
        }
    }
}
