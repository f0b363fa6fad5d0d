//! Flags, one or a page of them.

use chrono::{TimeDelta, Utc};

use crate::database::on_pool;

use super::records::time;
use super::shown::{Shown, View, view};
use super::standing::Standing;
use super::{ManageError, Manager};

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Name,
    /// Those that were never evaluated come first, then those whose last evaluation is longest ago.
    LastEvaluatedAt,
}

/// Which flags are asked for.
#[derive(Debug, Clone, Copy)]
pub struct ListAsked<'a> {
    /// `None`: all.
    pub environments: Option<&'a [&'a str]>,
    /// Only those that were not evaluated in so many days; `None`: all.
    pub unused_days: Option<u32>,
    pub sort: Sort,
    pub limit: u32,
    pub offset: u32,
}

/// Some of all flags.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Page {
    pub items: Vec<Shown>,
    /// Of all pages.
    pub total: i64,
    pub limit: u32,
    pub offset: u32,
}

const ONE: &str = view!("WHERE f.environment = $1 AND f.name = $2");
/// Those that are in the cache, or local and not deleted.
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

/// Between names of environments, which have no control characters: neither database takes a list in the same way.
const BETWEEN: &str = "\n";

impl Manager {
    /// One flag, wherever it is managed.
    pub async fn get(&self, environment: &str, name: &str) -> Result<Shown, ManageError> {
        self.records()?;
        let found = self.view(environment, name).await?;
        let in_force = !matches!(self.standing(environment, name), Standing::Nobody);
        let found = match found {
            // In force, and the sink has yet to write it down.
            None if in_force => {
                let records = self.records()?;
                on_pool!(&records.database, |pool, sql| {
                    sqlx::query(sql(ENTER)).bind(environment).bind(name).execute(pool).await.map(drop)?
                });
                self.view(environment, name).await?
            }
            found => found,
        };
        found.and_then(|view| self.show(view)).ok_or(ManageError::Unknown)
    }

    /// A page of flags.
    pub async fn list(&self, asked: ListAsked<'_>) -> Result<Page, ManageError> {
        let database = &self.records()?.database;
        let ListAsked { environments, unused_days, sort, limit, offset } = asked;
        let among = environments.map(among);
        let before = unused_days.map(|days| time(Utc::now() - TimeDelta::days(i64::from(days))));
        let some = match sort {
            Sort::Name => SOME,
            Sort::LastEvaluatedAt => SOME_BY_USE,
        };
        let (views, total): (Vec<View>, i64) = on_pool!(database, |pool, sql| {
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

    async fn view(&self, environment: &str, name: &str) -> Result<Option<View>, ManageError> {
        let database = &self.records()?.database;
        Ok(on_pool!(database, |pool, sql| {
            sqlx::query_as(sql(ONE)).bind(environment).bind(name).fetch_optional(pool).await?
        }))
    }
}

/// Each name between two separators.
fn among(names: &[&str]) -> String {
    names.iter().flat_map(|name| [BETWEEN, name, BETWEEN]).collect()
}
