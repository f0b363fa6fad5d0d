//! Reading one flag or a page of flags.

use chrono::{TimeDelta, Utc};

use crate::database::on_pool;

use super::effective_state::EffectiveState;
use super::flag_view::{FlagView, FlagViewRow, view};
use super::repository::time;
use super::{ManageError, Manager};

/// Order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Name,
    /// Flags that were never evaluated first, then by last evaluation, oldest first.
    LastEvaluatedAt,
}

/// Selection of flags.
#[derive(Debug, Clone, Copy)]
pub struct FlagFilter<'a> {
    /// Environments; `None`: all.
    pub environments: Option<&'a [&'a str]>,
    /// Only flags that were not evaluated in the last so many days; `None`: all.
    pub unused_days: Option<u32>,
    pub sort: Sort,
    pub limit: u32,
    pub offset: u32,
}

/// A page of flags.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Page {
    pub items: Vec<FlagView>,
    /// Number of flags on all pages.
    pub total: i64,
    pub limit: u32,
    pub offset: u32,
}

const ONE: &str = view!("WHERE f.environment = $1 AND f.name = $2");
/// Selects flags that are in the flag cache, or are local and not deleted.
const SOME: &str = view!(
    "WHERE ($1::text IS NULL OR replace($1, $2 || f.environment || $2, '') <> $1)
        AND ($5::timestamptz IS NULL OR f.last_evaluated_at IS NULL OR f.last_evaluated_at < $5::timestamptz)
        AND ((l.name IS NOT NULL AND l.deleted_at IS NULL)
            OR ((f.version IS NOT NULL OR f.last_synced_at IS NOT NULL) AND f.deleted_at IS NULL
                AND (f.source IS DISTINCT FROM 'local' OR l.name IS NULL)))
    ORDER BY f.name, f.environment LIMIT $3 OFFSET $4"
);
const SOME_BY_USE: &str = view!(
    "WHERE ($1::text IS NULL OR replace($1, $2 || f.environment || $2, '') <> $1)
        AND ($5::timestamptz IS NULL OR f.last_evaluated_at IS NULL OR f.last_evaluated_at < $5::timestamptz)
        AND ((l.name IS NOT NULL AND l.deleted_at IS NULL)
            OR ((f.version IS NOT NULL OR f.last_synced_at IS NOT NULL) AND f.deleted_at IS NULL
                AND (f.source IS DISTINCT FROM 'local' OR l.name IS NULL)))
    ORDER BY f.last_evaluated_at IS NOT NULL, f.last_evaluated_at, f.name, f.environment LIMIT $3 OFFSET $4"
);
const COUNT: &str = "SELECT count(*)
    FROM feature_flags f LEFT JOIN local_flags l ON l.environment = f.environment AND l.name = f.name
    WHERE ($1::text IS NULL OR replace($1, $2 || f.environment || $2, '') <> $1)
        AND ($3::timestamptz IS NULL OR f.last_evaluated_at IS NULL OR f.last_evaluated_at < $3::timestamptz)
        AND ((l.name IS NOT NULL AND l.deleted_at IS NULL)
            OR ((f.version IS NOT NULL OR f.last_synced_at IS NOT NULL) AND f.deleted_at IS NULL
                AND (f.source IS DISTINCT FROM 'local' OR l.name IS NULL)))";
const ENTER: &str = "INSERT INTO feature_flags (environment, name) VALUES ($1, $2) ON CONFLICT DO NOTHING";

/// Separator of environment names, which contain no control characters. The two databases have no common way to bind a
/// list.
const BETWEEN: &str = "\n";

impl Manager {
    /// Returns one flag, wherever it is managed.
    pub async fn get(&self, environment: &str, name: &str) -> Result<FlagView, ManageError> {
        self.repository()?;
        let found = self.view(environment, name).await?;
        let in_force = !matches!(self.effective_state(environment, name), EffectiveState::Nobody);
        let found = match found {
            // The flag is in force, but the audit sink has not written its row yet.
            None if in_force => {
                let repository = self.repository()?;
                on_pool!(&repository.database, |pool, sql| {
                    sqlx::query(sql(ENTER)).bind(environment).bind(name).execute(pool).await.map(drop)?
                });
                self.view(environment, name).await?
            }
            found => found,
        };
        found.and_then(|view| self.show(view)).ok_or(ManageError::Unknown)
    }

    /// Returns a page of flags.
    pub async fn list(&self, asked: FlagFilter<'_>) -> Result<Page, ManageError> {
        let database = &self.repository()?.database;
        let FlagFilter { environments, unused_days, sort, limit, offset } = asked;
        let among = environments.map(among);
        let before = unused_days.map(|days| time(Utc::now() - TimeDelta::days(i64::from(days))));
        let some = match sort {
            Sort::Name => SOME,
            Sort::LastEvaluatedAt => SOME_BY_USE,
        };
        let (views, total): (Vec<FlagViewRow>, i64) = on_pool!(database, |pool, sql| {
            let rows = sqlx::query_as(sql(some))
                .bind(&among)
                .bind(BETWEEN)
                .bind(i64::from(limit))
                .bind(i64::from(offset))
                .bind(&before);
            let total = sqlx::query_scalar(sql(COUNT)).bind(&among).bind(BETWEEN).bind(&before);
            (rows.fetch_all(pool).await?, total.fetch_one(pool).await?)
        });
        let items = views.into_iter().filter_map(|view| self.show(view)).collect();
        Ok(Page { items, total, limit, offset })
    }

    async fn view(&self, environment: &str, name: &str) -> Result<Option<FlagViewRow>, ManageError> {
        let database = &self.repository()?.database;
        Ok(on_pool!(database, |pool, sql| {
            sqlx::query_as(sql(ONE)).bind(environment).bind(name).fetch_optional(pool).await?
        }))
    }
}

/// Joins the names, each between two separators.
fn among(names: &[&str]) -> String {
    names.iter().flat_map(|name| [BETWEEN, name, BETWEEN]).collect()
}
