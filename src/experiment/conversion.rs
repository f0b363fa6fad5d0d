//! A conversion to be stored, and whether its experiment can use it.

use crate::flag::local::Invalid;
use crate::message::conversion::Conversion;

use super::design::{Design, Kind};
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
}

impl Reported {
    /// `user` is the stored form of the user's id. `place` replaces a missing event id.
    pub fn new(conversion: &Conversion<'_>, environment: &str, user: &str, place: &str) -> Self {
        Self {
            environment: conversion.environment.as_deref().unwrap_or(environment).to_owned(),
            experiment: conversion.experiment.clone().into_owned(),
            event_key: key(conversion.event_id.as_deref().unwrap_or(place)),
            // NUL characters are replaced in the same way as in the rows of evaluations.
            user_key: key(&user.replace('\0', "\u{FFFD}")),
            metric: conversion.metric.clone().into_owned(),
            value: conversion.value,
            occurred_at: conversion.occurred_at.timestamp_micros(),
        }
    }
}

/// Checks that the experiment has the metric, and that the value is present if the metric needs one.
pub fn check_metric(design: &Design, metric: &str, value: Option<f64>) -> Result<(), Invalid> {
    let Some(known) = design.metrics.iter().find(|known| known.name == metric) else {
        let names: Vec<&str> = design.metrics.iter().map(|known| known.name.as_str()).collect();
        return Err(Invalid::new("metric", format!("expected one of {}", names.join(", "))));
    };
    if known.kind == Kind::Mean && value.is_none() {
        return Err(Invalid::new("value", format!("is required: {metric} is a mean")));
    }
    Ok(())
}
