//! Numbers of an instance, taken from the text of its metrics, so that a report agrees with `/metrics`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::message::instance::{Numbers, Quantiles};

/// Histograms of durations that are reported, by their names in the report.
const DURATIONS: [(&str, &str); 3] = [
    ("request", "flagstream_evaluate_latency_seconds"),
    ("evaluation", "flagstream_evaluate_request_seconds"),
    ("audit", "flagstream_audit_latency_seconds"),
];
const MINUTE_SECONDS: f64 = 60.0;

/// One reading of the metrics.
#[derive(Debug, Default, Clone)]
pub struct Reading {
    at: DateTime<Utc>,
    /// Sums of the series of a name, by the name and, for evaluations, the path.
    sums: BTreeMap<String, f64>,
    evaluations: BTreeMap<String, f64>,
    /// Cumulative counts by upper bound in seconds, by the histogram's name in the report.
    buckets: BTreeMap<&'static str, Vec<(f64, f64)>>,
}

impl Reading {
    /// Reads metrics in OpenMetrics text format. A line that cannot be read is skipped.
    pub fn of(text: &str, at: DateTime<Utc>) -> Self {
        let mut reading = Self { at, ..Self::default() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            reading.add(name, labels, value);
        }
        reading
    }

    fn add(&mut self, name: &str, labels: &str, value: f64) {
        if name == "flagstream_evaluations_total" {
            if let Some(path) = label(labels, "path") {
                *self.evaluations.entry(path.to_owned()).or_default() += value;
            }
            return;
        }
        if let Some(histogram) = name.strip_suffix("_bucket") {
            let known = DURATIONS.iter().find(|(_, name)| *name == histogram);
            let bound = label(labels, "le").and_then(|bound| match bound {
                "+Inf" => Some(f64::INFINITY),
                bound => bound.parse().ok(),
            });
            if let (Some((shown, _)), Some(bound)) = (known, bound) {
                self.buckets.entry(shown).or_default().push((bound, value));
            }
            return;
        }
        *self.sums.entry(name.to_owned()).or_default() += value;
    }

    fn sum(&self, name: &str) -> f64 {
        self.sums.get(name).copied().unwrap_or_default()
    }

    /// Numbers of the time since `before`. `None`: there is no earlier reading, so no rate is known.
    pub fn since(&self, before: Option<&Self>) -> Numbers {
        let seconds = before.map(|before| (self.at - before.at).as_seconds_f64()).filter(|time| *time > 0.0);
        let rate = |now: f64, then: f64| seconds.map_or(0.0, |seconds| (now - then).max(0.0) / seconds);
        let per_minute = |name: &str| {
            let then = before.map_or(0.0, |before| before.sum(name));
            round(rate(self.sum(name), then) * MINUTE_SECONDS)
        };
        let evaluations = self.evaluations.iter().map(|(path, count)| {
            let then = before.and_then(|before| before.evaluations.get(path)).copied().unwrap_or_default();
            (path.clone(), round(rate(*count, then)))
        });
        let durations = self.buckets.iter().filter_map(|(name, now)| {
            let then = before.and_then(|before| before.buckets.get(name)).map(Vec::as_slice);
            Some(((*name).to_owned(), quantiles(now, then.unwrap_or_default())?))
        });
        Numbers {
            evaluations_per_second: evaluations.collect(),
            dead_letters_per_minute: per_minute("flagstream_dead_letters_total"),
            dropped_per_minute: per_minute("flagstream_dropped_total"),
            request_lag: whole(self.sum("flagstream_evaluate_lag")),
            audit_lag: whole(self.sum("flagstream_audit_lag")),
            spool_bytes: whole(self.sum("flagstream_publish_spool_bytes")),
            durations_ms: durations.collect(),
            killed: whole(self.sum("flagstream_store_killed")),
            stuck: whole(
                self.sum("flagstream_evaluate_stuck")
                    + self.sum("flagstream_tap_stuck")
                    + self.sum("flagstream_audit_stuck"),
            ),
        }
    }
}

/// Value of a label in `name="value",name="value"}`.
fn label<'l>(labels: &'l str, name: &str) -> Option<&'l str> {
    let mut parts = labels.trim_end_matches('}').split(',');
    parts.find_map(|part| part.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

/// Quantiles of what was observed between two readings of a histogram. `None`: nothing was.
fn quantiles(now: &[(f64, f64)], then: &[(f64, f64)]) -> Option<Quantiles> {
    let counts: Vec<(f64, f64)> = now
        .iter()
        .enumerate()
        .map(|(index, (bound, count))| (*bound, count - then.get(index).map_or(0.0, |(_, before)| *before)))
        .collect();
    let total = counts.last().map(|(_, count)| *count).filter(|total| *total >= 1.0)?;
    let at = |share: f64| {
        let (mut lower_bound, mut lower_count) = (0.0, 0.0);
        for (bound, count) in &counts {
            if *count >= total * share {
                // The last bucket has no upper bound.
                let upper = if bound.is_finite() { *bound } else { lower_bound };
                let inside = (count - lower_count).max(f64::MIN_POSITIVE);
                return lower_bound + (upper - lower_bound) * (total * share - lower_count) / inside;
            }
            (lower_bound, lower_count) = (*bound, *count);
        }
        lower_bound
    };
    Some(Quantiles { p50: round(at(0.5) * 1_000.0), p99: round(at(0.99) * 1_000.0) })
}

/// Rounds to thousandths, so that reports stay short.
fn round(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Gauges are whole and not negative here.
fn whole(number: f64) -> u64 {
    number.max(0.0) as u64
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::metrics::{EvaluationLabels, Metrics, PartitionLabels};

    fn read(metrics: &Metrics, seconds: i64) -> Reading {
        let at = DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        Reading::of(&metrics.encode().unwrap_or_default(), at)
    }

    #[test]
    fn the_numbers_are_those_of_the_metrics() {
        let metrics = Metrics::new();
        let evaluated = |path, reason, count| {
            let labels = EvaluationLabels { path, reason, environment: "e".into() };
            metrics.evaluations.get_or_create(&labels).inc_by(count);
        };
        evaluated("rest", "DEFAULT", 10);
        metrics.evaluate.lag.get_or_create(&PartitionLabels { partition: 0 }).set(4);
        metrics.evaluate.lag.get_or_create(&PartitionLabels { partition: 1 }).set(3);
        metrics.publish.spool_bytes.set(2_048);
        let first = read(&metrics, 0);
        let numbers = first.since(None);
        assert_eq!((numbers.request_lag, numbers.spool_bytes), (7, 2_048));
        assert_eq!(numbers.evaluations_per_second["rest"], 0.0, "one reading gives no rate");
        evaluated("rest", "DEFAULT", 10);
        evaluated("rest", "ERROR", 5);
        evaluated("kafka", "DEFAULT", 30);
        for millis in [1, 1, 1, 100] {
            metrics.evaluate.latency.observe(std::time::Duration::from_millis(millis));
        }
        let numbers = read(&metrics, 10).since(Some(&first));
        assert_eq!(numbers.evaluations_per_second["rest"], 1.5);
        assert_eq!(numbers.evaluations_per_second["kafka"], 3.0);
        let request = numbers.durations_ms["request"];
        assert!(request.p50 <= 1.1 && request.p99 > 25.0, "{request:?}");
        let idle = read(&metrics, 20).since(Some(&read(&metrics, 10)));
        assert!(idle.durations_ms.is_empty(), "nothing was observed: {idle:?}");
    }

    #[test]
    fn lines_that_are_not_known_are_skipped() {
        let reading = Reading::of(
            "# HELP x\nno value\nx{le=\"?\"} 5\nflagstream_evaluations_total 3\ny NaN-",
            DateTime::UNIX_EPOCH,
        );
        assert!(reading.evaluations.is_empty() && reading.buckets.is_empty());
    }
}
