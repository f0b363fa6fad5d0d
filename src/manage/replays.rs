//! Replays of recorded evaluations that are started over HTTP. Their state is in the database, so that any instance
//! shows and cancels them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::Config;
use crate::database::audited::{Actor, Kind};
use crate::database::{Database, DatabaseError, on_pool, text_of};
use crate::log_limit::limited;
use crate::replay::{self, History, Progress, Proposal, ReplayError, RowFilter, Session, With};

use super::{ManageError, Manager};

/// Replays that one instance runs at a time. Each holds definitions and counts in memory.
pub(super) const RUNNING_MAX_COUNT: usize = 2;
/// Interval at which the progress is written, and at which the instance looks for a cancellation.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Time without progress after which a replay counts as failed, because its instance has stopped.
const ABANDONED_AGE: TimeDelta = TimeDelta::seconds(30);
/// Days for which a replay and its report are kept.
const KEPT_DAYS: i64 = 7;
/// Largest report that is stored, in bytes. A larger one keeps its counts and loses the list of flags.
const REPORT_MAX_BYTES: usize = 8 << 20;
/// Replays that a list contains.
const LISTED_REPLAYS: i64 = 50;

/// Replay to start.
#[derive(Debug, Clone)]
pub struct ReplayRequest {
    pub filter: RowFilter,
    pub with: With,
    pub proposals: Vec<Proposal>,
    /// The request as it was sent, for display.
    pub document: Value,
}

/// State of a replay.
#[derive(Debug, Serialize)]
pub struct ReplayView {
    pub id: String,
    /// `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    pub actor: String,
    /// Instance that runs the replay.
    pub instance: String,
    pub request: Value,
    /// Number of evaluations that were read.
    pub evaluations: i64,
    /// Part of the period that was read, from 0 to 1.
    pub progress: f64,
    pub error: Option<String>,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Result; `None` until the replay is done, and in lists.
    pub report: Option<Value>,
}

type Row = (
    String,
    String,
    String,
    String,
    String,
    i64,
    i64,
    Option<String>,
    Option<String>,
    DateTime<Utc>,
    DateTime<Utc>,
    Option<DateTime<Utc>>,
);

const COLUMNS_OF_ONE: &str =
    "SELECT id, state, actor, instance, request::text, evaluations, progress::bigint, error,
    report::text, started_at, seen_at, ended_at FROM replays WHERE id = $1";
const COLUMNS_OF_ALL: &str =
    "SELECT id, state, actor, instance, request::text, evaluations, progress::bigint, error, NULL AS report, started_at,
    seen_at, ended_at FROM replays ORDER BY started_at DESC LIMIT $1";
const ENTER: &str = "INSERT INTO replays (id, request, actor, instance, state, started_at, seen_at)
    VALUES ($1, $2::jsonb, $3, $4, 'running', $5::timestamptz, $5::timestamptz)";
const FORGET: &str = "DELETE FROM replays WHERE started_at < $1::timestamptz";
/// A cancelled replay stays cancelled.
const PROGRESS: &str = "UPDATE replays SET evaluations = $2, progress = $3, seen_at = $4::timestamptz
    WHERE id = $1 AND state = 'running'";
const END: &str =
    "UPDATE replays SET state = $2, error = $3, report = $4::jsonb, evaluations = $5, progress = $6,
    seen_at = $7::timestamptz, ended_at = $7::timestamptz WHERE id = $1 AND state = 'running'";
const CANCEL: &str = "UPDATE replays SET state = 'cancelled', ended_at = $2::timestamptz
    WHERE id = $1 AND state = 'running'";

impl Manager {
    /// Starts a replay in the background. Returns it as it was stored.
    pub async fn start_replay(
        &self,
        request: ReplayRequest,
        author: Actor<'_>,
        stop: CancellationToken,
    ) -> Result<ReplayView, ManageError> {
        let database = self.repository()?.database.clone();
        let place = Arc::clone(&self.replay_places).try_acquire_owned();
        let place = place.map_err(|_| ManageError::Busy("too many replays run on this instance"))?;
        let (id, now) = (Uuid::now_v7().to_string(), Utc::now());
        let (document, actor) = (request.document.to_string(), author.actor.to_owned());
        on_pool!(&database, |pool, sql| {
            let forget = sqlx::query(sql(FORGET)).bind(text_of(now - TimeDelta::days(KEPT_DAYS)));
            forget.execute(pool).await.map(drop)?;
            let enter = sqlx::query(sql(ENTER)).bind(&id).bind(&document).bind(&actor);
            enter.bind(&self.config.instance).bind(text_of(now)).execute(pool).await.map(drop)?;
        });
        self.note(Kind::Replay, &id, "started", author, Some(request.document.clone()), now).await?;
        let running = Running { database, config: Arc::clone(&self.config), id: id.clone() };
        tokio::spawn(async move {
            running.run(request, stop).await;
            drop(place);
        });
        self.replay(&id).await?.ok_or(ManageError::Unknown)
    }

    /// Returns a replay with its report. `None`: there is no such replay.
    pub async fn replay(&self, id: &str) -> Result<Option<ReplayView>, ManageError> {
        let database = &self.repository()?.database;
        let row: Option<Row> = on_pool!(database, |pool, sql| {
            sqlx::query_as(sql(COLUMNS_OF_ONE)).bind(id).fetch_optional(pool).await?
        });
        Ok(row.map(view).transpose()?)
    }

    /// Returns the latest replays without their reports, newest first.
    pub async fn replays(&self) -> Result<Vec<ReplayView>, ManageError> {
        let database = &self.repository()?.database;
        let rows: Vec<Row> = on_pool!(database, |pool, sql| {
            sqlx::query_as(sql(COLUMNS_OF_ALL)).bind(LISTED_REPLAYS).fetch_all(pool).await?
        });
        Ok(rows.into_iter().map(view).collect::<Result<_, _>>()?)
    }

    /// Cancels a replay that runs on any instance. One that has ended stays as it is.
    pub async fn cancel_replay(&self, id: &str, author: Actor<'_>) -> Result<(), ManageError> {
        let database = &self.repository()?.database;
        let now = text_of(Utc::now());
        let cancelled = on_pool!(database, |pool, sql| {
            sqlx::query(sql(CANCEL)).bind(id).bind(&now).execute(pool).await?.rows_affected()
        });
        if cancelled > 0 {
            self.note(Kind::Replay, id, "cancelled", author, None, Utc::now()).await?;
        }
        Ok(())
    }
}

fn view(row: Row) -> Result<ReplayView, sqlx::Error> {
    let (
        id,
        state,
        actor,
        instance,
        request,
        evaluations,
        progress,
        error,
        report,
        started_at,
        seen_at,
        ended_at,
    ) = row;
    let json = |text: &str| serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)));
    let is_abandoned = state == "running" && Utc::now() - seen_at > ABANDONED_AGE;
    let lost = || format!("the instance {instance} has stopped");
    Ok(ReplayView {
        error: if is_abandoned { Some(lost()) } else { error },
        state: if is_abandoned { "failed".to_owned() } else { state },
        request: json(&request)?,
        report: report.as_deref().map(json).transpose()?,
        progress: f64::from(i32::try_from(progress).unwrap_or(0)) / 1_000.0,
        id,
        actor,
        instance,
        evaluations,
        started_at,
        ended_at,
    })
}

/// A replay that runs on this instance.
struct Running {
    database: Database,
    config: Arc<Config>,
    id: String,
}

impl Running {
    async fn run(&self, request: ReplayRequest, stop: CancellationToken) {
        let progress = Arc::new(Progress::default());
        let replaying = self.replayed(request, &progress);
        tokio::pin!(replaying);
        let ended = loop {
            tokio::select! {
                ended = &mut replaying => break ended,
                () = stop.cancelled() => break Err(ReplayError::Ended),
                () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
            }
            match self.note_progress(&progress).await {
                // Cancelled, or removed. Dropping the future ends the replay.
                Ok(false) => return,
                Ok(true) => {}
                Err(error) => {
                    tracing::debug!(%error, id = self.id, "the progress of a replay is not written")
                }
            }
        };
        let ended = ended.map(|session| report(&session)).map_err(|error| error.to_string());
        if let Err(error) = self.end(ended, &progress).await {
            limited!(warn, %error, id = self.id, "the result of a replay could not be stored");
        }
    }

    async fn replayed(
        &self,
        request: ReplayRequest,
        progress: &Arc<Progress>,
    ) -> Result<Session, ReplayError> {
        let history = History::load(&self.database).await?;
        let session = Session::new(&self.config, history, request.with, &request.proposals);
        replay::database(&self.database, &request.filter, session, progress).await
    }

    /// Writes the progress. Returns whether the replay still runs.
    async fn note_progress(&self, progress: &Progress) -> Result<bool, DatabaseError> {
        let (rows, done) = counts(progress);
        let updated = on_pool!(&self.database, |pool, sql| {
            let query = sqlx::query(sql(PROGRESS)).bind(&self.id).bind(rows).bind(done);
            query.bind(text_of(Utc::now())).execute(pool).await?.rows_affected()
        });
        Ok(updated > 0)
    }

    async fn end(&self, ended: Result<Value, String>, progress: &Progress) -> Result<(), DatabaseError> {
        let (rows, done) = counts(progress);
        let (state, error, report) = match ended {
            Ok(report) => ("done", None, Some(report.to_string())),
            Err(error) => ("failed", Some(error), None),
        };
        on_pool!(&self.database, |pool, sql| {
            let query = sqlx::query(sql(END)).bind(&self.id).bind(state).bind(error).bind(report);
            query.bind(rows).bind(done).bind(text_of(Utc::now())).execute(pool).await.map(drop)?;
        });
        Ok(())
    }
}

fn counts(progress: &Progress) -> (i64, i32) {
    let rows = i64::try_from(progress.rows.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
    (rows, i32::try_from(progress.done.load(Ordering::Relaxed)).unwrap_or(0))
}

fn report(session: &Session) -> Value {
    let mut report = serde_json::to_value(&session.report).unwrap_or_default();
    if report.to_string().len() > REPORT_MAX_BYTES
        && let Some(members) = report.as_object_mut()
    {
        members.insert("flags".to_owned(), json!([]));
        members.insert("other_flags".to_owned(), json!(session.report.different));
    }
    report
}
