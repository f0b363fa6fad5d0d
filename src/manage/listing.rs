//! Reading one flag or a page of flags.

use chrono::{TimeDelta, Utc};

use crate::auth::Restrictions;
use crate::database::on_pool;

use super::belonging::Stored;
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
    /// Flags that the caller may see.
    pub within: &'a Restrictions,
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
/// Conditions, order and page of a query for flags that are in the flag cache, or are local and not deleted.
macro_rules! listed {
    ($order:literal) => {
        concat!(
            "WHERE ($1::text IS NULL OR replace($1, $2 || f.environment || $2, '') <> $1)
                AND ($5::timestamptz IS NULL OR f.last_evaluated_at IS NULL OR f.last_evaluated_at < $5::timestamptz)
                AND ((l.name IS NOT NULL AND l.deleted_at IS NULL)
                    OR ((f.version IS NOT NULL OR f.last_synced_at IS NOT NULL) AND f.deleted_at IS NULL
                        AND (f.source IS DISTINCT FROM 'local' OR l.name IS NULL)))
            ORDER BY ",
            $order,
            " LIMIT $3 OFFSET $4"
        )
    };
}
/// Query for the names of flags, with the stored project and owner.
macro_rules! names {
    ($($rest:tt)*) => {
        concat!(
            "SELECT f.environment, f.name, CASE WHEN l.name IS NULL THEN f.project END AS project,
                l.document ->> 'owner' AS owner
            FROM feature_flags f LEFT JOIN local_flags l
                ON l.environment = f.environment AND l.name = f.name AND l.deleted_at IS NULL ",
            $($rest)*
        )
    };
}
macro_rules! by_name {
    () => {
        listed!("f.name, f.environment")
    };
}
macro_rules! by_use {
    () => {
        listed!("f.last_evaluated_at IS NOT NULL, f.last_evaluated_at, f.name, f.environment")
    };
}
const SOME: &str = view!(by_name!());
const SOME_BY_USE: &str = view!(by_use!());
const NAMES: &str = names!(by_name!());
const NAMES_BY_USE: &str = names!(by_use!());
const COUNT: &str = "SELECT count(*)
    FROM feature_flags f LEFT JOIN local_flags l ON l.environment = f.environment AND l.name = f.name
    WHERE ($1::text IS NULL OR replace($1, $2 || f.environment || $2, '') <> $1)
        AND ($3::timestamptz IS NULL OR f.last_evaluated_at IS NULL OR f.last_evaluated_at < $3::timestamptz)
        AND ((l.name IS NOT NULL AND l.deleted_at IS NULL)
            OR ((f.version IS NOT NULL OR f.last_synced_at IS NOT NULL) AND f.deleted_at IS NULL
                AND (f.source IS DISTINCT FROM 'local' OR l.name IS NULL)))";
const ENTER: &str = "INSERT INTO feature_flags (environment, name) VALUES ($1, $2) ON CONFLICT DO NOTHING";

/// Maximum flags among which a page is selected by a token's restrictions; far more than a deployment has.
const NAMES_MAX: i64 = 100_000;

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
        let FlagFilter { environments, within, unused_days, sort, limit, offset } = asked;
        if !within.is_empty() {
            return self.list_within(asked).await;
        }
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

    /// Returns a page of the flags that the restrictions allow. The definition in force decides, so all names are read
    /// and filtered first, and only the flags of the page are read completely.
    async fn list_within(&self, asked: FlagFilter<'_>) -> Result<Page, ManageError> {
        let database = &self.repository()?.database;
        let FlagFilter { environments, within, unused_days, sort, limit, offset } = asked;
        let among = environments.map(among);
        let before = unused_days.map(|days| time(Utc::now() - TimeDelta::days(i64::from(days))));
        let names = match sort {
            Sort::Name => NAMES,
            Sort::LastEvaluatedAt => NAMES_BY_USE,
        };
        let mut rows: Vec<NameRow> = on_pool!(database, |pool, sql| {
            let rows = sqlx::query_as(sql(names)).bind(&among).bind(BETWEEN).bind(NAMES_MAX).bind(0_i64);
            rows.bind(&before).fetch_all(pool).await?
        });
        rows.retain(|(environment, name, project, owner)| {
            let stored = Stored { project: project.clone(), owner: owner.clone() };
            self.is_within(within, environment, name, &stored).is_ok()
        });
        let total = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let mut items = Vec::new();
        for (environment, name, ..) in rows.iter().skip(offset as usize).take(limit as usize) {
            items.extend(self.view(environment, name).await?.and_then(|view| self.show(view)));
        }
        Ok(Page { items, total, limit, offset })
    }

    async fn view(&self, environment: &str, name: &str) -> Result<Option<FlagViewRow>, ManageError> {
        let database = &self.repository()?.database;
        Ok(on_pool!(database, |pool, sql| {
            sqlx::query_as(sql(ONE)).bind(environment).bind(name).fetch_optional(pool).await?
        }))
    }
}

/// Environment, name, stored project and stored owner of a flag.
type NameRow = (String, String, Option<String>, Option<String>);

/// Joins the names, each between two separators.
fn among(names: &[&str]) -> String {
    names.iter().flat_map(|name| [BETWEEN, name, BETWEEN]).collect()
}
