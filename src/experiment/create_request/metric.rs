//! Metric of a request to start an experiment.

use serde::Deserialize;

use super::super::design::{Cap, Goal, Kind, Metric, Role};
use super::{MAX_METRIC_BYTES, MINIMUM_EFFECT_DEFAULT, WINDOW_HOURS_MAX};

/// Longest time from the exposure to the start of a metric's window: 90 days.
const DELAY_HOURS_MAX: u32 = 90 * 24;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MetricRequest {
    pub(super) name: String,
    kind: Option<Kind>,
    goal: Option<Goal>,
    pub(super) role: Option<Role>,
    pub(super) minimum_effect: Option<f64>,
    event: Option<String>,
    denominator: Option<String>,
    delay_hours: Option<u32>,
    window_hours: Option<u32>,
    cap: Option<Cap>,
    quantile: Option<f64>,
}

impl MetricRequest {
    /// Checks the members that depend on the kind of the metric. Returns the invalid ones, each with a message.
    pub(super) fn check(&self) -> Vec<(&'static str, String)> {
        let kind = self.kind.unwrap_or(Kind::Conversion);
        let mut wrong: Vec<(&'static str, String)> = Vec::new();
        for (member, name) in [("event", &self.event), ("denominator", &self.denominator)] {
            let is_wrong = name
                .as_ref()
                .is_some_and(|name| name.is_empty() || name.len() > MAX_METRIC_BYTES || name.contains('\0'));
            if is_wrong {
                let message = format!("expected 1 to {MAX_METRIC_BYTES} bytes without NUL characters");
                wrong.push((member, message));
            }
        }
        if self.denominator.is_some() != (kind == Kind::Ratio) {
            wrong.push(("denominator", "a ratio requires it, and no other kind has it".to_owned()));
        }
        if self.quantile.is_some() != (kind == Kind::Quantile) {
            wrong.push(("quantile", "a quantile requires it, and no other kind has it".to_owned()));
        } else if !(0.01..=0.99).contains(&self.quantile.unwrap_or(0.5)) {
            wrong.push(("quantile", "expected a number from 0.01 to 0.99".to_owned()));
        }
        if self.delay_hours.unwrap_or(0) > DELAY_HOURS_MAX {
            wrong.push(("delay_hours", format!("expected a whole number up to {DELAY_HOURS_MAX}")));
        }
        if kind == Kind::Retention && self.delay_hours.unwrap_or(0) == 0 {
            wrong.push(("delay_hours", "is required: retention is a conversion after some time".to_owned()));
        }
        if !(1..=WINDOW_HOURS_MAX).contains(&self.window_hours.unwrap_or(1)) {
            wrong.push(("window_hours", format!("expected a whole number from 1 to {WINDOW_HOURS_MAX}")));
        }
        match self.cap {
            None => {}
            Some(_) if !matches!(kind, Kind::Mean | Kind::Count) => {
                wrong.push(("cap", "only a mean or a count has it".to_owned()));
            }
            Some(Cap::Value(value)) if !(value.is_finite() && value > 0.0) => {
                wrong.push(("cap.value", "expected a number above 0".to_owned()));
            }
            Some(Cap::Percentile(share)) if !(0.5..1.0).contains(&share) => {
                wrong.push(("cap.percentile", "expected a number from 0.5 to below 1".to_owned()));
            }
            Some(_) => {}
        }
        wrong
    }

    pub(super) fn metric(self, role: Role) -> Metric {
        Metric {
            name: self.name,
            kind: self.kind.unwrap_or(Kind::Conversion),
            goal: self.goal.unwrap_or(Goal::Increase),
            role: self.role.unwrap_or(role),
            minimum_effect: self.minimum_effect.unwrap_or(MINIMUM_EFFECT_DEFAULT),
            event: self.event,
            denominator: self.denominator,
            delay_hours: self.delay_hours.unwrap_or(0),
            window_hours: self.window_hours,
            cap: self.cap,
            quantile: self.quantile,
        }
    }
}
