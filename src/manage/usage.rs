//! Usage of a flag over time.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::audit::usage::{DAY, HOUR, MINUTE, Sums};
use crate::database::on_pool;

use super::{ManageError, Manager};

/// Length of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolution {
    Minute,
    Hour,
    Day,
}

/// Requested period. `from` is rounded down to the start of its bucket.
#[derive(Debug, Clone, Copy)]
pub struct Period {
    pub resolution: Resolution,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

/// Usage of one flag.
#[derive(Debug, Serialize)]
pub struct FlagUsage {
    pub flag_name: String,
    pub environment: String,
    pub resolution: Resolution,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub total: Used,
    /// Buckets in chronological order; those without evaluations are left out.
    pub buckets: Vec<Bucket>,
}

#[derive(Debug, Serialize)]
pub struct Bucket {
    pub starts_at: DateTime<Utc>,
    #[serde(flatten)]
    pub used: Used,
}

/// Number of evaluations and their results.
#[derive(Debug, Default, Serialize)]
pub struct Used {
    pub evaluations: i64,
    /// Evaluations that found the flag on.
    pub enabled: i64,
    pub disabled: i64,
    pub errors: i64,
    pub variants: BTreeMap<String, i64>,
    /// Mean evaluation time in microseconds, from the evaluations that were timed; `None` if none was.
    pub mean_evaluation_us: Option<f64>,
    #[serde(skip)]
    sums: Sums,
}

const USAGE: &str = "SELECT starts_at, variant, evaluations, enabled, errors, timed, nanoseconds
    FROM feature_flag_usage
    WHERE environment = $1 AND flag_name = $2 AND seconds <= $3 AND starts_at >= $4 AND starts_at < $5";

type Row = (i64, String, i64, i64, i64, i64, i64);

impl Resolution {
    pub fn seconds(self) -> i64 {
        match self {
            Self::Minute => MINUTE,
            Self::Hour => HOUR,
            Self::Day => DAY,
        }
    }
}

impl Manager {
    /// Returns the usage of a flag within a period, from the sums that the audit sink maintains.
    pub async fn usage(
        &self,
        environment: &str,
        name: &str,
        period: Period,
    ) -> Result<FlagUsage, ManageError> {
        let Period { resolution, from, to } = period;
        let length = resolution.seconds();
        let from = from.timestamp().div_euclid(length) * length;
        let database = &self.repository()?.database;
        let rows: Vec<Row> = on_pool!(database, |pool, sql| {
            let question = sqlx::query_as(sql(USAGE)).bind(environment).bind(name).bind(length);
            question.bind(from).bind(to.timestamp()).fetch_all(pool).await?
        });
        if rows.is_empty() {
            self.was_known(environment, name).await?;
        }
        let (mut total, mut buckets) = (Used::default(), BTreeMap::<i64, Used>::new());
        for row in &rows {
            total.add(row);
            buckets.entry(row.0.div_euclid(length) * length).or_default().add(row);
        }
        let bucket = |(starts_at, used): (i64, Used)| Bucket { starts_at: moment(starts_at), used };
        Ok(FlagUsage {
            flag_name: name.to_owned(),
            environment: environment.to_owned(),
            resolution,
            from: moment(from),
            to,
            total,
            buckets: buckets.into_iter().map(bucket).collect(),
        })
    }
}

impl Used {
    fn add(&mut self, (_, variant, evaluations, enabled, errors, timed, nanoseconds): &Row) {
        let (evaluations, enabled, errors) = (*evaluations, *enabled, *errors);
        self.sums.add(&Sums { evaluations, enabled, errors, timed: *timed, nanoseconds: *nanoseconds });
        self.evaluations = self.sums.evaluations;
        self.enabled = self.sums.enabled;
        self.disabled = self.sums.evaluations - self.sums.enabled;
        self.errors = self.sums.errors;
        if !variant.is_empty() {
            *self.variants.entry(variant.clone()).or_default() += evaluations;
        }
        // Rounded to nanoseconds, the resolution of the clock.
        let mean = |sums: &Sums| (sums.nanoseconds as f64 / sums.timed as f64).round() / 1_000.0;
        self.mean_evaluation_us = (self.sums.timed > 0).then(|| mean(&self.sums));
    }
}

fn moment(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default()
}
