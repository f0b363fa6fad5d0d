//! A conversion to be stored, and whether its experiment can use it.

use std::borrow::Cow;

use crate::flag::local::Invalid;
use crate::message::conversion::Conversion;

use super::design::{Design, Kind, Metric};
use super::key::{Key, key};

/// A conversion that was parsed, before its experiment is looked up.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    pub environment: String,
    pub experiment: String,
    pub event_key: Key,
    pub user_key: Key,
    pub metric: String,
    pub value: Option<f64>,
    /// Time of the conversion in microseconds since 1970.
    pub occurred_at: i64,
    /// Further properties, as the JSON text of an object.
    pub metadata: Option<String>,
}

impl Reported {
    /// `user` and `metadata` are the stored forms of the user's id and the metadata. `place` replaces a missing event id.
    pub fn new(
        conversion: &Conversion<'_>,
        environment: &str,
        user: &str,
        metadata: Option<Cow<'_, str>>,
        place: &str,
    ) -> Self {
        Self {
            environment: conversion.environment.as_deref().unwrap_or(environment).to_owned(),
            experiment: conversion.experiment.clone().into_owned(),
            event_key: key(conversion.event_id.as_deref().unwrap_or(place)),
            // NUL characters are replaced in the same way as in the rows of evaluations.
            user_key: key(&user.replace('\0', "\u{FFFD}")),
            metric: conversion.metric.clone().into_owned(),
            value: conversion.value,
            occurred_at: conversion.occurred_at.timestamp_micros(),
            metadata: metadata.map(Cow::into_owned),
        }
    }
}

/// Checks that the experiment has the metric, and that the value is present if the metric needs one.
pub fn check_metric(design: &Design, metric: &str, value: Option<f64>) -> Result<(), Invalid> {
    let metrics = || design.metrics_of(metric);
    if metrics().next().is_none() {
        let events = design
            .metrics
            .iter()
            .flat_map(|known| std::iter::once(known.event()).chain(known.denominator.as_deref()));
        let mut names: Vec<&str> = events.collect();
        names.sort_unstable();
        names.dedup();
        return Err(Invalid::new("metric", format!("expected one of {}", names.join(", "))));
    }
    let needs_value = |known: &Metric| matches!(known.kind, Kind::Mean | Kind::Quantile);
    if metrics().any(needs_value) && value.is_none() {
        return Err(Invalid::new("value", format!("is required: {metric} is a mean or a quantile")));
    }
    // A rate counts whether a user converted, so a value that says "no" would count as "yes".
    if metrics().all(|known| known.kind.is_rate()) && value == Some(0.0) {
        let message =
            format!("must not be 0: {metric} is a rate, for which every conversion counts; do not send it");
        return Err(Invalid::new("value", message));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn design(metrics: &str) -> Design {
        serde_json::from_str(&format!(
            r#"{{"name": "x", "environment": "e", "flag_name": "f", "control": "a", "metrics": {metrics},
            "window_hours": 1, "confidence": 0.95, "power": 0.8}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_value_is_there_where_it_counts_and_never_says_no() {
        let metric = |name: &str, more: &str| {
            format!(
                r#"{{"name": "{name}", "goal": "increase", "role": "primary", "minimum_effect": 0.1{more}}}"#
            )
        };
        let design = design(&format!(
            "[{}, {}, {}, {}]",
            metric("buy", r#", "kind": "conversion""#),
            metric("spent", r#", "kind": "mean", "event": "order""#),
            metric("orders", r#", "kind": "count", "event": "order""#),
            metric("margin", r#", "kind": "ratio", "event": "profit", "denominator": "order""#),
        ));
        let field = |metric: &str, value| check_metric(&design, metric, value).map_err(|wrong| wrong.field);
        assert_eq!(field("buy", None), Ok(()));
        assert_eq!(field("buy", Some(12.5)), Ok(()));
        assert_eq!(field("buy", Some(0.0)), Err("value".to_owned()), "0 would count as a conversion");
        assert_eq!(field("order", Some(0.0)), Ok(()), "a free order");
        assert_eq!(field("order", None), Err("value".to_owned()));
        assert_eq!(field("profit", None), Ok(()));
        let unknown = check_metric(&design, "spent", None).unwrap_err();
        assert_eq!(unknown.message, "expected one of buy, order, profit");
    }
}
