//! Request to start or stop an experiment.

mod metric;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::flag::local::{Invalid, check_environment, check_name};

use super::Draws;
use super::design::{Design, Dimension, OnHarm, Role};
use super::phases::variants;

use metric::MetricRequest;

/// Maximum number of metrics of an experiment.
const METRICS_MAX: usize = 20;
/// Longest name of a metric, in bytes.
const MAX_METRIC_BYTES: usize = 100;
/// Maximum number of dimensions of an experiment. Each needs a count of its own.
const DIMENSIONS_MAX: usize = 5;
/// Longest name of an attribute by which results are broken down, in bytes.
const MAX_DIMENSION_BYTES: usize = 100;
/// Longest hypothesis, owner or other text of an experiment, in bytes.
const MAX_TEXT_BYTES: usize = 1_000;
/// Default of `window_hours`: a week.
const WINDOW_HOURS_DEFAULT: u32 = 7 * 24;
/// Longest conversion window: 90 days.
const WINDOW_HOURS_MAX: u32 = 90 * 24;
/// Users for which an experiment may be planned.
const PLANNED_USERS: std::ops::RangeInclusive<u64> = 100..=10_000_000_000;
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
    finished_windows: Option<bool>,
    exclude_crossed: Option<bool>,
    planned_users: Option<u64>,
    on_harm: Option<OnHarm>,
    dimensions: Option<Vec<Dimension>>,
    /// Flag whose variants divide the users between experiments.
    pub layer: Option<String>,
    /// Flag with a variant for users who are in no experiment.
    pub global_holdout: Option<String>,
    /// Start of the experiment. `None`: now.
    pub started_at: Option<DateTime<Utc>>,
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
        if !PLANNED_USERS.contains(&self.planned_users.unwrap_or(*PLANNED_USERS.start())) {
            let (least, most) = (PLANNED_USERS.start(), PLANNED_USERS.end());
            refuse("planned_users", format!("expected a whole number from {least} to {most}"));
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
            for (member, message) in metric.check() {
                refuse(&place(member), message);
            }
        }
        for (field, flag) in [("layer", &self.layer), ("global_holdout", &self.global_holdout)] {
            if flag.as_deref() == Some(self.flag_name()) {
                wrong.push(Invalid::new(field, "must be another flag than that of the experiment"));
            }
        }
        wrong.extend(check_dimensions(self.dimensions.as_deref().unwrap_or_default()));
        wrong
    }

    /// Builds the design for a flag with these draws.
    pub(super) fn design(self, draws: Draws) -> Result<Design, Vec<Invalid>> {
        let all = variants(&draws.lists);
        let names: Vec<&str> = all.iter().map(|variant| variant.name.as_str()).collect();
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
        let draws = draws.with(control.as_deref().unwrap_or_default());
        if variants(&draws.lists).len() < 2 + usize::from(self.holdout.is_some()) {
            wrong.push(Invalid::new("flag_name", "expected a flag with at least two variants to compare"));
        }
        if let Some(unit) = draws.lists.iter().find_map(|list| list.unit.as_ref()) {
            let message = format!(
                "the flag draws its variants by {unit}: users who share a value are not independent of each other, so no \
                 interval would hold; use the stickiness default or userId"
            );
            wrong.push(Invalid::new("flag_name", message));
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let has_primary = self.metrics.iter().any(|metric| metric.role == Some(Role::Primary));
        let role = |index| if index == 0 && !has_primary { Role::Primary } else { Role::Secondary };
        let metric = |(index, metric): (usize, MetricRequest)| metric.metric(role(index));
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
            finished_windows: self.finished_windows.unwrap_or(false),
            exclude_crossed: self.exclude_crossed.unwrap_or(false),
            planned_users: self.planned_users,
            on_harm: self.on_harm,
            dimensions: self.dimensions.unwrap_or_default(),
            // Read from the flags' definitions.
            layer: None,
            global_holdout: None,
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

fn check_dimensions(dimensions: &[Dimension]) -> Vec<Invalid> {
    let mut wrong = Vec::new();
    if dimensions.len() > DIMENSIONS_MAX {
        wrong.push(Invalid::new("dimensions", format!("expected at most {DIMENSIONS_MAX} dimensions")));
    }
    for (index, dimension) in dimensions.iter().enumerate() {
        let name = &dimension.name;
        let place = format!("dimensions[{index}].name");
        if name.is_empty() || name.len() > MAX_DIMENSION_BYTES || name.contains(['\0', '"', '$']) {
            let message =
                format!("expected 1 to {MAX_DIMENSION_BYTES} bytes without NUL characters, quotes and $");
            wrong.push(Invalid::new(&place, message));
        } else if dimensions.iter().take(index).any(|other| other == dimension) {
            wrong.push(Invalid::new(&place, "duplicate: another dimension is the same attribute".to_owned()));
        }
    }
    wrong
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
            (r#"[{"name": "m", "event": ""}]"#, "metrics[0].event"),
            (r#"[{"name": "m", "kind": "ratio"}]"#, "metrics[0].denominator"),
            (r#"[{"name": "m", "denominator": "n"}]"#, "metrics[0].denominator"),
            (r#"[{"name": "m", "kind": "quantile"}]"#, "metrics[0].quantile"),
            (r#"[{"name": "m", "kind": "quantile", "quantile": 1}]"#, "metrics[0].quantile"),
            (r#"[{"name": "m", "kind": "retention"}]"#, "metrics[0].delay_hours"),
            (r#"[{"name": "m", "window_hours": 0}]"#, "metrics[0].window_hours"),
            (r#"[{"name": "m", "cap": {"value": 5}}]"#, "metrics[0].cap"),
            (r#"[{"name": "m", "kind": "mean", "cap": {"value": -1}}]"#, "metrics[0].cap.value"),
            (r#"[{"name": "m", "kind": "count", "cap": {"percentile": 99}}]"#, "metrics[0].cap.percentile"),
        ] {
            let body = format!(r#"{{"name": "e", "environment": "dev", "metrics": {metrics}}}"#);
            assert_eq!(fields(&body), [field], "{metrics}");
        }
        assert_eq!(fields(r#"{"environment": "dev", "metrics": [{"name": "m"}]}"#), ["name"]);
        assert_eq!(fields("[]"), ["body"]);
        assert_eq!(fields("{"), ["body"]);
    }

    #[test]
    fn dimensions_are_few_different_and_named() {
        let with = |dimensions: &str| {
            fields(&format!(
                r#"{{"name": "e", "environment": "dev", "metrics": [{{"name": "m"}}], "dimensions": {dimensions}}}"#
            ))
        };
        let none: [&str; 0] = [];
        assert_eq!(with(r#"[{"name": "plan"}, {"name": "plan", "source": "conversion"}]"#), none);
        assert_eq!(
            with(r#"[{"name": "plan"}, {"name": "plan", "source": "context"}]"#),
            ["dimensions[1].name"]
        );
        assert_eq!(with(r#"[{"name": ""}]"#), ["dimensions[0].name"]);
        assert_eq!(with(r#"[{"name": "$.plan"}]"#), ["dimensions[0].name"]);
        assert_eq!(with(r#"[{"name": "plan", "source": "cookie"}]"#), ["dimensions[0].source"]);
        let six: Vec<String> = (0..6).map(|number| format!(r#"{{"name": "d{number}"}}"#)).collect();
        assert_eq!(with(&format!("[{}]", six.join(", "))), ["dimensions"]);
    }

    #[test]
    fn a_layer_is_another_flag() {
        let body = r#"{"name": "e", "environment": "dev", "metrics": [{"name": "m"}], "layer": "e", "global_holdout": "e"}"#;
        assert_eq!(fields(body), ["layer", "global_holdout"]);
        assert!(fields(&body.replace(r#": "e""#, r#": "f""#).replacen(r#""f""#, r#""e""#, 1)).is_empty());
    }

    fn draws(variants: &[&str], stickiness: &str) -> Draws {
        let weighted =
            |name: &&str| format!(r#"{{"name": "{name}", "weight": 1, "stickiness": "{stickiness}"}}"#);
        let variants: Vec<String> = variants.iter().map(weighted).collect();
        Draws::read(&format!(r#"{{"variants": [{}]}}"#, variants.join(", ")))
    }

    #[test]
    fn a_flag_that_draws_by_company_has_no_experiment() {
        let read = || {
            let body = r#"{"name": "e", "environment": "dev", "metrics": [{"name": "m"}]}"#;
            CreateRequest::read(body.as_bytes()).unwrap()
        };
        let refused = read().design(draws(&["a", "b"], "company")).unwrap_err();
        assert!(refused[0].message.starts_with("the flag draws its variants by company"), "{refused:?}");
        assert!(read().design(draws(&["a", "b"], "userId")).is_ok());
    }

    #[test]
    fn variants_that_the_control_is_never_drawn_with_are_no_treatments() {
        let text = r#"{"strategies": [{"variants": [{"name": "x", "weight": 1}, {"name": "y", "weight": 1}]}, {}],
            "variants": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]}"#;
        let body = r#"{"name": "e", "environment": "dev", "metrics": [{"name": "m"}], "control": "a", "holdout": "b"}"#;
        let request = CreateRequest::read(body.as_bytes()).unwrap();
        let refused = request.design(Draws::read(text)).unwrap_err();
        assert_eq!(refused[0].field, "flag_name", "a and its holdout only");
    }

    #[test]
    fn what_is_left_out_is_chosen() {
        let design = |members: &str, variants: &[&str]| {
            let body =
                format!(r#"{{"name": "e", "environment": "dev", "metrics": [{{"name": "m"}}]{members}}}"#);
            CreateRequest::read(body.as_bytes()).unwrap().design(draws(variants, "default"))
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
