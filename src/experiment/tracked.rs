//! Experiments that a tracking event counts for: the event names a metric, and no experiment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;

use super::design::Design;
use super::records::{ExperimentError, Experiments, StoredExperiment};

/// Time for which the list of experiments is used without reading the database again. Until then an experiment that was
/// started on another instance gets no tracking events from this one.
const LISTED_TTL: Duration = Duration::from_secs(1);

/// Experiments as they were last read.
pub(super) type Listed = Mutex<Option<(Instant, Arc<[StoredExperiment]>)>>;

impl Experiments {
    /// Designs of the environment's experiments that have the metric, and whose conversions count at `now`.
    pub async fn counting(
        &self,
        environment: &str,
        metric: &str,
        now: DateTime<Utc>,
    ) -> Result<Vec<Arc<Design>>, ExperimentError> {
        let all = self.recently_listed().await?;
        let counts = all.iter().filter(|stored| counts(stored, environment, metric, now));
        Ok(counts.map(|stored| Arc::new(stored.experiment.design.clone())).collect())
    }

    /// Holds the lock while it reads, so that concurrent events cause one query.
    async fn recently_listed(&self) -> Result<Arc<[StoredExperiment]>, ExperimentError> {
        let mut listed = self.listed.lock().await;
        if let Some((since, all)) = &*listed
            && since.elapsed() < LISTED_TTL
        {
            return Ok(Arc::clone(all));
        }
        let all: Arc<[_]> = self.list().await?.into();
        *listed = Some((Instant::now(), Arc::clone(&all)));
        Ok(all)
    }
}

/// A stopped experiment exposes no more users; conversions count until the window of the last exposure ends.
fn counts(stored: &StoredExperiment, environment: &str, event: &str, now: DateTime<Utc>) -> bool {
    let design = &stored.experiment.design;
    let Some(hours) = design.metrics_of(event).map(|metric| design.ends_after_hours(metric)).max() else {
        return false;
    };
    let window = TimeDelta::hours(i64::from(hours));
    let is_over = stored.experiment.stopped_at.is_some_and(|stopped| stopped + window < now);
    design.environment == environment && !is_over
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stored(stopped_at: Option<&str>) -> StoredExperiment {
        let design = json!({"name": "e", "environment": "production", "flag_name": "f", "hypothesis": null, "owner": null,
            "control": "a", "holdout": null, "window_hours": 24, "confidence": 0.95, "power": 0.8,
            "metrics": [{"name": "purchase", "kind": "conversion", "goal": "increase", "role": "primary",
                "minimum_effect": 0.05}]});
        let micros = |text: &str| text.parse::<DateTime<Utc>>().unwrap().timestamp_micros();
        let begun = micros("2026-01-01T00:00:00Z");
        let stopped_at = stopped_at.map(micros);
        let row =
            (1, design.to_string(), "me".to_owned(), begun, stopped_at, None, None, 0, 0, false, 0, None);
        super::super::records::read_row(row).unwrap()
    }

    #[test]
    fn an_event_counts_for_experiments_with_its_metric_until_their_windows_end() {
        let now = "2026-01-15T12:00:00Z".parse().unwrap();
        assert!(counts(&stored(None), "production", "purchase", now));
        assert!(!counts(&stored(None), "staging", "purchase", now));
        assert!(!counts(&stored(None), "production", "refund", now));
        assert!(counts(&stored(Some("2026-01-14T12:00:01Z")), "production", "purchase", now));
        assert!(!counts(&stored(Some("2026-01-14T11:59:59Z")), "production", "purchase", now));
    }
}
