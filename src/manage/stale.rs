//! Flags that need attention. Everything needed is in each flag's own row, so no evaluations are read.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::auth::Restrictions;
use crate::database::on_pool;
use crate::message::definition::Source;

use super::belonging::Stored;
use super::effective_state::EffectiveState;
use super::{ManageError, Manager};

/// Maximum flags that are read, more than a deployment can have.
const FLAGS_MAX: i64 = 100_000;

/// Reason why a flag needs attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StaleReason {
    /// The time `expires_at` has passed.
    Expired,
    /// Unleash marked it as stale.
    MarkedStale,
    NeverEvaluated,
    /// Evaluated before, but not in the last `unused_days` days.
    Unused,
    /// Evaluated in the last `days` days, and never found off in them.
    AlwaysOn,
    Unowned,
}

/// Selection and thresholds.
#[derive(Debug, Clone, Copy)]
pub struct StaleFilter<'a> {
    /// Environments; `None`: all.
    pub environments: Option<&'a [&'a str]>,
    /// Flags that the caller may see.
    pub within: &'a Restrictions,
    /// Number of days for which a flag must have been on to be always on.
    pub days: u32,
    /// Number of days without an evaluation after which a flag is unused.
    pub unused_days: u32,
    /// Leaves out flags that are younger than this.
    pub min_age_days: u32,
    pub limit: u32,
    pub offset: u32,
}

#[derive(Debug, Serialize)]
pub struct StalePage {
    pub items: Vec<StaleFlag>,
    pub total: usize,
    pub limit: u32,
    pub offset: u32,
    pub days: u32,
    pub unused_days: u32,
}

/// A flag, and why it needs attention.
#[derive(Debug, Serialize)]
pub struct StaleFlag {
    pub name: String,
    pub environment: String,
    pub source: &'static str,
    pub owner: Option<String>,
    pub reasons: Vec<StaleReason>,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    /// Number of evaluations since the flag exists.
    pub evaluation_count: i64,
    pub last_evaluated_at: Option<DateTime<Utc>>,
    /// Last evaluation that found the flag off, as far as recorded (see `outcomes_since`).
    pub last_off_at: Option<DateTime<Utc>>,
    pub outcomes_since: Option<DateTime<Utc>>,
    /// Evaluations within the last `days` days.
    pub evaluations: i64,
    pub enabled: i64,
}

const FLAGS: &str =
    "SELECT f.environment, f.name, f.owner, f.created_at, f.evaluation_count, f.last_evaluated_at,
        f.last_off_at, f.outcomes_since, l.document::text, l.created_at
    FROM feature_flags f LEFT JOIN local_flags l
        ON l.environment = f.environment AND l.name = f.name AND l.deleted_at IS NULL
    WHERE f.deleted_at IS NULL AND (f.version IS NOT NULL OR l.name IS NOT NULL)
    ORDER BY f.name, f.environment LIMIT $1";
const RECENT: &str = "SELECT coalesce(sum(evaluations), 0)::bigint, coalesce(sum(enabled), 0)::bigint
    FROM feature_flag_usage WHERE environment = $1 AND flag_name = $2 AND starts_at >= $3";

type Row = (
    String,
    String,
    Option<String>,
    DateTime<Utc>,
    i64,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
    Option<String>,
    Option<DateTime<Utc>>,
);

impl Manager {
    /// Lists flags that are in force and expired, marked stale, never evaluated, unused, always on, or without an
    /// owner.
    pub async fn stale(&self, asked: StaleFilter<'_>) -> Result<StalePage, ManageError> {
        let database = &self.repository()?.database;
        let rows: Vec<Row> = on_pool!(database, |pool, sql| {
            sqlx::query_as(sql(FLAGS)).bind(FLAGS_MAX).fetch_all(pool).await?
        });
        let now = Utc::now();
        let seen = |row: &Row| asked.environments.is_none_or(|all| all.contains(&row.0.as_str()));
        let judged = rows.into_iter().filter(seen).filter_map(|row| self.judge(row, &asked, now));
        let stale: Vec<StaleFlag> = judged.collect();
        let total = stale.len();
        let page = stale.into_iter().skip(asked.offset as usize).take(asked.limit as usize);
        let since = (now - TimeDelta::days(i64::from(asked.days))).timestamp();
        let mut items = Vec::new();
        for flag in page {
            let (evaluations, enabled): (i64, i64) = on_pool!(database, |pool, sql| {
                let question =
                    sqlx::query_as(sql(RECENT)).bind(&flag.environment).bind(&flag.name).bind(since);
                question.fetch_one(pool).await?
            });
            items.push(StaleFlag { evaluations, enabled, ..flag });
        }
        Ok(StalePage {
            items,
            total,
            limit: asked.limit,
            offset: asked.offset,
            days: asked.days,
            unused_days: asked.unused_days,
        })
    }

    /// Judges one flag; `None` if it needs no attention.
    fn judge(&self, row: Row, asked: &StaleFilter<'_>, now: DateTime<Utc>) -> Option<StaleFlag> {
        let (
            environment,
            name,
            owner,
            created_at,
            evaluation_count,
            last_evaluated_at,
            last_off_at,
            outcomes_since,
            ..,
        ) = row;
        let (document, made_at) = (row.8, row.9);
        let (source, marked) = match self.effective_state(&environment, &name) {
            EffectiveState::Nobody if document.is_none() => return None,
            EffectiveState::Nobody | EffectiveState::Local(..) => (Source::Local, false),
            EffectiveState::Elsewhere(source, flag) => (source, flag.summary().stale),
        };
        let local = document.filter(|_| source == Source::Local);
        let local: Option<Value> = local.and_then(|text| serde_json::from_str(&text).ok());
        let member = |name: &str| local.as_ref().and_then(|local| local.get(name)?.as_str());
        // Archived flags are handled by the cleanup.
        if member("status") == Some("archived") {
            return None;
        }
        let owner = if source == Source::Local { member("owner").map(str::to_owned) } else { owner };
        // Only a local flag gets here without being in force.
        let stored = Stored { project: None, owner: owner.clone() };
        self.is_within(asked.within, &environment, &name, &stored).ok()?;
        let created_at = made_at.filter(|_| source == Source::Local).unwrap_or(created_at);
        if now - created_at < TimeDelta::days(i64::from(asked.min_age_days)) {
            return None;
        }
        let expires_at = member("expires_at").and_then(|at| DateTime::parse_from_rfc3339(at).ok());
        let expires_at = expires_at.map(|at| at.to_utc());
        let start = now - TimeDelta::days(i64::from(asked.days));
        let always_on = outcomes_since.is_some_and(|since| since <= start)
            && last_evaluated_at.is_some_and(|at| at >= start)
            && last_off_at.is_none_or(|at| at < start);
        let unused_since = now - TimeDelta::days(i64::from(asked.unused_days));
        let found = [
            (expires_at.is_some_and(|at| at <= now), StaleReason::Expired),
            (marked, StaleReason::MarkedStale),
            (evaluation_count == 0 && last_evaluated_at.is_none(), StaleReason::NeverEvaluated),
            (last_evaluated_at.is_some_and(|at| at < unused_since), StaleReason::Unused),
            (always_on, StaleReason::AlwaysOn),
            (owner.as_ref().is_none_or(|owner| owner.trim().is_empty()), StaleReason::Unowned),
        ];
        let reasons: Vec<_> =
            found.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason).collect();
        (!reasons.is_empty()).then(|| StaleFlag {
            name,
            environment,
            source: source.as_str(),
            owner,
            reasons,
            created_at,
            expires_at,
            evaluation_count,
            last_evaluated_at,
            last_off_at,
            outcomes_since,
            evaluations: 0,
            enabled: 0,
        })
    }
}
