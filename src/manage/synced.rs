//! Updates the flag cache after a sync.

use std::collections::HashMap;

use chrono::Utc;

use crate::database::{Database, DatabaseError, in_transaction};
use crate::feed::AdminFlag;
use crate::message::definition::Source;

use super::effective_state::EffectiveState;
use super::repository::time;
use super::sync::Expected;
use super::{ManageError, Manager};

/// The audit sink waits for the rows that a transaction has locked.
const ROWS_PER_TRANSACTION: usize = 200;

/// Members that the Admin API does not return keep their values.
const SYNCED: &str = "INSERT INTO feature_flags AS f (environment, name, is_enabled, source, unleash_flag_name,
        description, type, project, owner, created_at, last_synced_at)
    VALUES ($1, $2, $3, $4, CASE $4 WHEN 'unleash' THEN $2 END, $5, $6, $7, $8, coalesce($9, $10)::timestamptz,
        $10::timestamptz)
    ON CONFLICT (name, environment) DO UPDATE SET
        description = coalesce(excluded.description, f.description), type = coalesce(excluded.type, f.type),
        project = coalesce(excluded.project, f.project), owner = coalesce(excluded.owner, f.owner),
        created_at = CASE WHEN $9 IS NULL THEN f.created_at ELSE excluded.created_at END,
        last_synced_at = excluded.last_synced_at
    WHERE f.source IS NULL OR f.source = excluded.source";

/// Row of the flag cache.
struct Row<'r> {
    name: &'r str,
    is_enabled: bool,
    told: Option<&'r AdminFlag>,
}

impl Manager {
    /// Records the time of the sync, and what the Admin API returned.
    pub(super) async fn note_synced(
        &self,
        environment: &str,
        expected: &Expected,
        told: Vec<AdminFlag>,
    ) -> Result<(), ManageError> {
        let Some(repository) = &self.repository else {
            return Ok(());
        };
        let told: HashMap<&str, &AdminFlag> = told.iter().map(|flag| (flag.name.as_str(), flag)).collect();
        // Sorted in the order in which the audit sinks lock rows, to avoid deadlocks.
        let mut names: Vec<&str> = expected.flags.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let row =
            |name| Row { name, is_enabled: self.is_on(environment, name), told: told.get(name).copied() };
        let rows: Vec<_> = names.into_iter().map(row).collect();
        for rows in rows.chunks(ROWS_PER_TRANSACTION) {
            write(&repository.database, environment, expected.source, rows).await?;
        }
        Ok(())
    }

    fn is_on(&self, environment: &str, name: &str) -> bool {
        matches!(self.effective_state(environment, name), EffectiveState::Elsewhere(_, flag) if flag.is_switched_on() && flag.summary().lets_through)
    }
}

async fn write(
    database: &Database,
    environment: &str,
    source: Source,
    rows: &[Row<'_>],
) -> Result<(), DatabaseError> {
    let now = time(Utc::now());
    in_transaction!(database, |transaction, sql| {
        for row in rows {
            let plain = |text: Option<&str>| text.map(|text| text.replace('\0', ""));
            let query = sqlx::query(sql(SYNCED)).bind(environment).bind(row.name).bind(row.is_enabled);
            let query = query.bind(source.as_str());
            let query = query.bind(plain(row.told.and_then(|told| told.description.as_deref())));
            let query = query.bind(plain(row.told.and_then(|told| told.r#type.as_deref())));
            let query = query.bind(plain(row.told.and_then(|told| told.project.as_deref())));
            let query = query.bind(plain(row.told.and_then(AdminFlag::owner)));
            let query = query.bind(row.told.and_then(|told| told.created_at).map(time)).bind(&now);
            query.execute(&mut *transaction).await?;
        }
    });
    Ok(())
}
