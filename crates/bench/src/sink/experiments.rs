//! The sink with experiments: some flags have one each, and conversions arrive at a steady rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use rdkafka::producer::BaseRecord;
use serde_json::json;

use flagstream::experiment::{Design, Metric};

use super::super::load::{self, ENVIRONMENT, flag_name};
use super::super::setup::Bench;
use super::Own;

pub const CONVERSIONS_PER_SECOND: u64 = 1_000;
const TICK: Duration = Duration::from_millis(5);

/// The number of flags with variants that have an experiment.
pub const ARMS: [(&str, usize); 2] =
    [("sink, one flag in experiment", 1), ("sink, every third flag", usize::MAX)];

impl Own {
    /// Creates experiments for the first `count` flags with variants, started before the first event.
    pub(super) async fn begin_experiments(&self, flags: usize, count: usize) -> anyhow::Result<()> {
        sqlx::raw_sql("TRUNCATE experiments, experiment_exposures, experiment_conversions")
            .execute(&self.database.pool)
            .await?;
        let began = (Utc::now() - TimeDelta::hours(2)).timestamp_micros();
        for number in (1..flags).step_by(3).take(count) {
            let name = flag_name(number);
            let metric = Metric { name: "purchase".to_owned(), ..Metric::default() };
            let design = serde_json::to_string(&Design {
                name: name.clone(),
                environment: ENVIRONMENT.to_owned(),
                flag_name: name.clone(),
                hypothesis: None,
                owner: None,
                control: "light".to_owned(),
                holdout: None,
                metrics: vec![metric],
                window_hours: 168,
                confidence: 0.95,
                power: 0.8,
                finished_windows: false,
                exclude_crossed: false,
                planned_users: None,
                on_harm: None,
                dimensions: Vec::new(),
                layer: None,
                global_holdout: None,
            })?;
            let begin =
                "INSERT INTO experiments (environment, name, flag_name, design, created_by, started_at)
                VALUES ($1, $2, $2, $3::jsonb, 'bench', $4)";
            let begin = sqlx::query(begin).bind(ENVIRONMENT).bind(&name).bind(design).bind(began);
            begin.execute(&self.database.pool).await?;
        }
        Ok(())
    }
}

/// Sends conversions at a steady rate until it is dropped.
pub struct Converting {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Converting {
    pub fn start(bench: &Bench) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (producer, topic) = (bench.request_producer(5)?, bench.config.topics.conversions.clone());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (started, mut sent) = (Instant::now(), 0_u64);
            while !stopped.load(Ordering::Relaxed) {
                let due = started.elapsed().as_millis() as u64 * CONVERSIONS_PER_SECOND / 1_000;
                while sent < due {
                    let user = load::asker(sent, 2).user;
                    let body = json!({"experiment": flag_name(1), "environment": ENVIRONMENT, "user_id": user,
                        "metric": "purchase", "occurred_at": Utc::now(), "event_id": sent.to_string()});
                    let body = body.to_string();
                    let record = BaseRecord::to(&topic).key(user.as_str()).payload(body.as_str());
                    producer.send(record).map_err(|(error, _)| error)?;
                    sent += 1;
                }
                std::thread::sleep(TICK);
            }
            Ok(())
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Converting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Ok(Err(error))) = ended {
            tracing::error!(%error, "conversions were not sent");
        }
    }
}
