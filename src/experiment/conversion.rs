//! A conversion on its way into the tables, and whether its experiment can use it.

use crate::flag::local::Invalid;
use crate::message::conversion::Conversion;

use super::design::{Design, Kind};
use super::key::{Key, key};

/// One that was read, and whose experiment is to be found.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    pub environment: String,
    pub experiment: String,
    pub event_key: Key,
    pub user_key: Key,
    pub metric: String,
    pub value: Option<f64>,
    /// Microseconds since 1970.
    pub occurred_at: i64,
}

impl Reported {
    /// `user` is what the user's id is written as, `place` stands for an event without an id.
    pub fn new(conversion: &Conversion<'_>, environment: &str, user: &str, place: &str) -> Self {
        Self {
            environment: conversion.environment.as_deref().unwrap_or(environment).to_owned(),
            experiment: conversion.experiment.clone().into_owned(),
            event_key: key(conversion.event_id.as_deref().unwrap_or(place)),
            // As rows of evaluations have it.
            user_key: key(&user.replace('\0', "\u{FFFD}")),
            metric: conversion.metric.clone().into_owned(),
            value: conversion.value,
            occurred_at: conversion.occurred_at.timestamp_micros(),
        }
    }
}

impl Design {
    /// What a conversion says that this experiment cannot use.
    pub fn check(&self, metric: &str, value: Option<f64>) -> Result<(), Invalid> {
        let Some(known) = self.metrics.iter().find(|known| known.name == metric) else {
            let names: Vec<&str> = self.metrics.iter().map(|known| known.name.as_str()).collect();
            return Err(Invalid::new("metric", format!("expected one of {}", names.join(", "))));
        };
        if known.kind == Kind::Mean && value.is_none() {
            return Err(Invalid::new("value", format!("is required: {metric} is a mean")));
        }
        Ok(())
    }
}
