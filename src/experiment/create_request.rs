//! Request to start or stop an experiment.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::flag::local::{Invalid, check_environment, check_name};

use super::design::{Design, Goal, Kind, Metric, Role};
use super::tally::Weighted;

/// Maximum number of metrics of an experiment.
const METRICS_MAX: usize = 20;
/// Longest name of a metric, in bytes.
const MAX_METRIC_BYTES: usize = 100;
/// Longest hypothesis, owner or other text of an experiment, in bytes.
const MAX_TEXT_BYTES: usize = 1_000;
/// Default of `window_hours`: a week.
const WINDOW_HOURS_DEFAULT: u32 = 7 * 24;
/// Longest conversion window: 90 days.
const WINDOW_HOURS_MAX: u32 = 90 * 24;
const CONFIDENCE_DEFAULT: f64 = 0.95;
const POWER_DEFAULT: f64 = 0.8;
/// Default of `minimum_effect`, relative to the control.
const MINIMUM_EFFECT_DEFAULT: f64 = 0.05;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    name: String,
    pub environment: String,
    flag_name: Option<String>,
    hypothesis: Option<String>,
    owner: Option<String>,
    control: Option<String>,
    holdout: Option<String>,
    metrics: Vec<MetricRequest>,
    window_hours: Option<u32>,
    confidence: Option<f64>,
    power: Option<f64>,
    /// Start of the experiment. `None`: now.
    pub started_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricRequest {
    name: String,
    kind: Option<Kind>,
    goal: Option<Goal>,
    role: Option<Role>,
    minimum_effect: Option<f64>,
}

/// Request to stop an experiment.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ending {
    pub reason: Option<String>,
    /// The winning variant.
    pub winner: Option<String>,
}

impl Ending {
    /// Parses the body, which may be empty.
    pub fn read(body: &[u8]) -> Result<Self, Vec<Invalid>> {
        let ending: Self = if body.trim_ascii().is_empty() { Self::default() } else { read(body)? };
        let mut wrong = Vec::new();
        for (field, text) in [("reason", &ending.reason), ("winner", &ending.winner)] {
            wrong.extend(check_text(field, text));
        }
        if wrong.is_empty() { Ok(ending) } else { Err(wrong) }
    }
}

impl CreateRequest {
    pub fn read(body: &[u8]) -> Result<Self, Vec<Invalid>> {
        read(body)
    }

    pub fn flag_name(&self) -> &str {
        self.flag_name.as_deref().unwrap_or(&self.name)
    }

    /// Checks the request without knowing the flag.
    pub(super) fn check(&self, now: DateTime<Utc>, oldest: DateTime<Utc>) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        wrong.extend(check_text("hypothesis", &self.hypothesis));
        wrong.extend(check_text("owner", &self.owner));
        let mut refuse = |field: &str, message: String| wrong.push(Invalid::new(field, message));
        for (field, checked) in
            [("name", check_name(&self.name)), ("environment", check_environment(&self.environment))]
        {
            checked.err().into_iter().for_each(|message| refuse(field, message));
        }
        if !(1..=WINDOW_HOURS_MAX).contains(&self.window_hours.unwrap_or(1)) {
            refuse("window_hours", format!("expected a whole number from 1 to {WINDOW_HOURS_MAX}"));
        }
        if !(0.5..=0.999).contains(&self.confidence.unwrap_or(CONFIDENCE_DEFAULT)) {
            refuse("confidence", "expected a number from 0.5 to 0.999".to_owned());
        }
        if !(0.5..=0.99).contains(&self.power.unwrap_or(POWER_DEFAULT)) {
            refuse("power", "expected a number from 0.5 to 0.99".to_owned());
        }
        if self.started_at.is_some_and(|at| at > now || at < oldest) {
            refuse("started_at", format!("expected a time from {oldest} to now"));
        }
        if !(1..=METRICS_MAX).contains(&self.metrics.len()) {
            refuse("metrics", format!("expected 1 to {METRICS_MAX} metrics"));
        }
        for (index, metric) in self.metrics.iter().enumerate() {
            let place = |member: &str| format!("metrics[{index}].{member}");
            let is_known = |other: &&MetricRequest| other.name == metric.name;
            if metric.name.is_empty() || metric.name.len() > MAX_METRIC_BYTES || metric.name.contains('\0') {
                refuse(
                    &place("name"),
                    format!("expected 1 to {MAX_METRIC_BYTES} bytes without NUL characters"),
                );
            } else if self.metrics.iter().take(index).any(|other| is_known(&other)) {
                refuse(&place("name"), "duplicate name: another metric has it, too".to_owned());
            }
            if !(0.0001..=10.0).contains(&metric.minimum_effect.unwrap_or(MINIMUM_EFFECT_DEFAULT)) {
                refuse(&place("minimum_effect"), "expected a number from 0.0001 to 10".to_owned());
            }
        }
        wrong
    }

    /// Builds the design for a flag with these variants.
    pub(super) fn design(self, variants: &[Weighted]) -> Result<Design, Vec<Invalid>> {
        let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
        let is_known = |name: &Option<String>| name.as_deref().is_none_or(|name| names.contains(&name));
        let mut wrong = Vec::new();
        for (field, name) in [("control", &self.control), ("holdout", &self.holdout)] {
            if !is_known(name) {
                wrong.push(Invalid::new(
                    field,
                    format!("the flag has no variant of this name; expected one of {}", names.join(", ")),
                ));
            }
        }
        let others = || names.iter().find(|name| self.holdout.as_deref() != Some(**name));
        let control = self.control.clone().or_else(|| others().map(|name| (*name).to_owned()));
        if control.is_some() && control == self.holdout {
            wrong.push(Invalid::new("holdout", "must not be the control variant"));
        }
        if names.len() < 2 + usize::from(self.holdout.is_some()) {
            wrong.push(Invalid::new("flag_name", "expected a flag with at least two variants to compare"));
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let has_primary = self.metrics.iter().any(|metric| metric.role == Some(Role::Primary));
        let role = |index| if index == 0 && !has_primary { Role::Primary } else { Role::Secondary };
        let metric = |(index, metric): (usize, MetricRequest)| Metric {
            name: metric.name,
            kind: metric.kind.unwrap_or(Kind::Conversion),
            goal: metric.goal.unwrap_or(Goal::Increase),
            role: metric.role.unwrap_or(role(index)),
            minimum_effect: metric.minimum_effect.unwrap_or(MINIMUM_EFFECT_DEFAULT),
        };
        Ok(Design {
            flag_name: self.flag_name().to_owned(),
            name: self.name,
            environment: self.environment,
            hypothesis: self.hypothesis,
            owner: self.owner,
            control: control.unwrap_or_default(),
            holdout: self.holdout,
            metrics: self.metrics.into_iter().enumerate().map(metric).collect(),
            window_hours: self.window_hours.unwrap_or(WINDOW_HOURS_DEFAULT),
            confidence: self.confidence.unwrap_or(CONFIDENCE_DEFAULT),
            power: self.power.unwrap_or(POWER_DEFAULT),
        })
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Vec<Invalid>> {
    let value: serde_json::Value = serde_json::from_slice(body)
        .map_err(|error| vec![Invalid::malformed("body", format!("not JSON: {error}"))])?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, message) = (error.path().to_string(), error.inner().to_string());
        vec![Invalid::new(&field(&path, &message), message)]
    })
}

fn check_text(field: &str, text: &Option<String>) -> Option<Invalid> {
    let is_wrong = text.as_ref().is_some_and(|text| text.len() > MAX_TEXT_BYTES || text.contains('\0'));
    is_wrong.then(|| {
        Invalid::new(field, format!("expected at most {MAX_TEXT_BYTES} bytes without NUL characters"))
    })
}

/// Name of the invalid field. For a missing or unknown member the deserializer reports the name only in its message.
fn field(path: &str, message: &str) -> String {
    let named = ["missing field `", "unknown field `"].iter().find_map(|start| message.strip_prefix(start));
    match (path, named.and_then(|rest| rest.split('`').next())) {
        (".", Some(name)) => name.to_owned(),
        (path, Some(name)) if !path.ends_with(name) => format!("{path}.{name}"),
        (".", None) => "body".to_owned(),
        (path, _) => path.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Vec<String> {
        let now = Utc::now();
        let wrong = match CreateRequest::read(body.as_bytes()) {
            Err(wrong) => wrong,
            Ok(request) => request.check(now, now - chrono::TimeDelta::days(90)),
        };
        wrong.into_iter().map(|invalid| invalid.field).collect()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |members: &str| {
            fields(&format!(
                r#"{{"name": "e", "environment": "dev", "metrics": [{{"name": "m"}}]{members}}}"#
            ))
        };
        assert_eq!(with(""), [""; 0]);
        for (members, field) in [
            (r#", "window_hours": 0"#, "window_hours"),
            (r#", "window_hours": "7d""#, "window_hours"),
            (r#", "confidence": 95"#, "confidence"),
            (r#", "power": 0"#, "power"),
            (r#", "metric": []"#, "metric"),
            (r#", "started_at": "2020-01-01T00:00:00Z""#, "started_at"),
            (r#", "started_at": "2999-01-01T00:00:00Z""#, "started_at"),
            (r#", "owner": 7"#, "owner"),
        ] {
            assert_eq!(with(members), [field], "{members}");
        }
        for (metrics, field) in [
            ("[]", "metrics"),
            (r#"[{"name": "m"}, {"name": "m"}]"#, "metrics[1].name"),
            (r#"[{"name": ""}]"#, "metrics[0].name"),
            (r#"[{"name": "m", "kind": "median"}]"#, "metrics[0].kind"),
            (r#"[{"kind": "mean"}]"#, "metrics[0].name"),
            (r#"[{"name": "m", "minimum_effect": 0}]"#, "metrics[0].minimum_effect"),
        ] {
            let body = format!(r#"{{"name": "e", "environment": "dev", "metrics": {metrics}}}"#);
            assert_eq!(fields(&body), [field], "{metrics}");
        }
        assert_eq!(fields(r#"{"environment": "dev", "metrics": [{"name": "m"}]}"#), ["name"]);
        assert_eq!(fields("[]"), ["body"]);
        assert_eq!(fields("{"), ["body"]);
    }

    #[test]
    fn what_is_left_out_is_chosen() {
        let design = |members: &str, variants: &[&str]| {
            let body =
                format!(r#"{{"name": "e", "environment": "dev", "metrics": [{{"name": "m"}}]{members}}}"#);
            let weighted = |name: &&str| Weighted { name: (*name).to_owned(), weight: None };
            let variants: Vec<Weighted> = variants.iter().map(weighted).collect();
            CreateRequest::read(body.as_bytes()).unwrap().design(&variants)
        };
        let chosen = design("", &["a", "b"]).unwrap();
        assert_eq!((chosen.flag_name.as_str(), chosen.control.as_str()), ("e", "a"));
        assert_eq!(chosen.metrics[0].role, Role::Primary);
        assert_eq!(design(r#", "holdout": "a""#, &["a", "b", "c"]).unwrap().control, "b");
        for (members, variants, field) in [
            ("", &["a"][..], "flag_name"),
            (r#", "control": "x""#, &["a", "b"], "control"),
            (r#", "holdout": "b""#, &["a", "b"], "flag_name"),
            (r#", "control": "a", "holdout": "a""#, &["a", "b", "c"], "holdout"),
        ] {
            assert_eq!(design(members, variants).unwrap_err()[0].field, field, "{members}");
        }
    }
}
