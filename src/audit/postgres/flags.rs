//! Writes the flag cache: evaluation counts, and columns from definitions.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

use crate::database::DatabaseError;

use super::super::batch::{Batch, Entry};
use super::super::definition::FlagVersion;
use super::super::switch::SwitchChange;

/// Adds a batch's counts, in the order of [`Batch::counts`], which prevents deadlocks between sinks.
pub(super) async fn count(
    transaction: &mut Transaction<'_, Postgres>,
    batch: &Batch,
    entries: &[Entry],
) -> Result<(), DatabaseError> {
    let upsert = "INSERT INTO feature_flags AS f (environment, name, evaluation_count, last_evaluated_at, outcomes_since,
            last_off_at)
        SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[],
            $6::timestamptz[])
        ON CONFLICT (name, environment) DO UPDATE SET
            evaluation_count = f.evaluation_count + excluded.evaluation_count,
            last_evaluated_at = greatest(f.last_evaluated_at, excluded.last_evaluated_at),
            outcomes_since = least(f.outcomes_since, excluded.outcomes_since),
            last_off_at = greatest(f.last_off_at, excluded.last_off_at)";
    let counts = batch.counts(entries);
    if counts.is_empty() {
        return Ok(());
    }
    let environments: Vec<&str> = counts.iter().map(|count| &*count.environment).collect();
    let flags: Vec<&str> = counts.iter().map(|count| &*count.flag).collect();
    let evaluations: Vec<i64> = counts.iter().map(|count| count.evaluations).collect();
    let time = |micros: Option<i64>| micros.and_then(DateTime::from_timestamp_micros);
    let last: Vec<Option<DateTime<Utc>>> =
        counts.iter().map(|count| time(Some(count.last_evaluated_at))).collect();
    let first: Vec<_> = counts.iter().map(|count| time(Some(count.first_evaluated_at))).collect();
    let off: Vec<_> = counts.iter().map(|count| time(count.last_off_at)).collect();
    let query = sqlx::query(upsert).bind(environments).bind(flags).bind(evaluations).bind(last);
    let query = query.bind(first).bind(off);
    query.execute(&mut **transaction).await?;
    Ok(())
}

/// Records a version, and updates the flag unless its version is newer.
pub(super) async fn define(
    transaction: &mut Transaction<'_, Postgres>,
    version: &FlagVersion,
) -> Result<(), DatabaseError> {
    let record = "INSERT INTO feature_flag_versions
            (environment, name, version, definition, checksum, source, actor, in_force_at)
        VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
    let defined = version.defined.as_ref();
    let in_force_at = DateTime::from_timestamp_millis(version.in_force_ms).unwrap_or_default();
    let query = sqlx::query(record).bind(&version.environment).bind(&version.name).bind(version.version);
    let query = query.bind(defined.map(|defined| &defined.definition));
    let query =
        query.bind(defined.map(|defined| &defined.checksum)).bind(defined.map(|defined| defined.source));
    query.bind(&version.actor).bind(in_force_at).execute(&mut **transaction).await?;
    let Some(defined) = defined else {
        let delete =
            "UPDATE feature_flags SET is_enabled = false, version = $3, deleted_at = $4, updated_at = now(),
                last_synced_at = now()
            WHERE environment = $1 AND name = $2 AND (version IS NULL OR version < $3)";
        let query = sqlx::query(delete).bind(&version.environment).bind(&version.name).bind(version.version);
        query.bind(in_force_at).execute(&mut **transaction).await?;
        return Ok(());
    };
    let upsert = "INSERT INTO feature_flags AS f (environment, name, version, is_enabled, description,
            rollout_percentage, target_users, source, unleash_flag_name, last_synced_at, type, project, owner)
        VALUES ($1, $2, $3, $4, $5, $6, to_jsonb($7::text[]), $8, CASE $8 WHEN 'unleash' THEN $2 END, now(), $9, $10,
            $11)
        ON CONFLICT (name, environment) DO UPDATE SET version = excluded.version,
            is_enabled = excluded.is_enabled, description = coalesce(excluded.description, CASE excluded.source
                WHEN 'unleash' THEN f.description END),
            rollout_percentage = excluded.rollout_percentage, target_users = excluded.target_users,
            type = excluded.type, project = excluded.project,
            owner = coalesce(excluded.owner, CASE excluded.source WHEN 'unleash' THEN f.owner END),
            source = excluded.source, unleash_flag_name = excluded.unleash_flag_name,
            last_synced_at = excluded.last_synced_at, updated_at = now(), deleted_at = NULL
        WHERE f.version IS NULL OR f.version < excluded.version";
    let query = sqlx::query(upsert).bind(&version.environment).bind(&version.name).bind(version.version);
    let query = query.bind(defined.is_enabled).bind(&defined.description).bind(&defined.rollout_percentage);
    let query = query.bind(&defined.target_users).bind(defined.source);
    query
        .bind(&defined.r#type)
        .bind(&defined.project)
        .bind(&defined.owner)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Adds a change of a kill switch to the change log, once.
pub(super) async fn log_switch(
    transaction: &mut Transaction<'_, Postgres>,
    change: &SwitchChange,
) -> Result<(), DatabaseError> {
    let insert = "INSERT INTO feature_flag_changes
            (environment, flag_name, action, actor, reason, before, after, changed_at, change_id, version)
        VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8, $9, $10) ON CONFLICT DO NOTHING";
    let query = sqlx::query(insert).bind(&change.environment).bind(&change.flag).bind(change.action);
    let query = query.bind(&change.actor).bind(&change.reason).bind(&change.before).bind(&change.after);
    let query = query.bind(change.changed_at).bind(&change.change_id).bind(change.version);
    query.execute(&mut **transaction).await?;
    Ok(())
}
