//! Variants: who gets which, and their payloads, parsed once.

use std::sync::Arc;

use unleash_types::client_features::{self, ClientFeature, Strategy};

use super::properties::ContextField;
pub use crate::flag::value::Payload;

/// A variant, its payload parsed once at compile time.
#[derive(Debug)]
pub struct Variant {
    pub name: Arc<str>,
    pub payload: Option<Payload>,
    pub(crate) weight: u32,
    pub(crate) overrides: Box<[Override]>,
}

/// Contexts that get a variant whatever their hash.
#[derive(Debug)]
pub(crate) struct Override {
    pub(crate) field: ContextField,
    pub(crate) values: Box<[Box<str>]>,
}

/// Variants that share a draw: the flag's own, or those of one strategy.
#[derive(Debug)]
pub(crate) struct VariantSet {
    /// Where they stand among all variants of the flag.
    pub(crate) start: usize,
    pub(crate) count: usize,
    /// What is drawn from: at least the weights' sum.
    pub(crate) total_weight: u32,
    /// Whether a draw may come to no variant.
    pub(crate) has_rest: bool,
    pub(crate) stickiness: Stickiness,
    /// What the draw is made for, beside the stickiness's value; the flag's name if `None`.
    pub(crate) group: Option<Box<str>>,
    pub(crate) has_overrides: bool,
}

/// Whose value decides the draw; without a value it is random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stickiness {
    /// `default`: the user, else the session.
    UserOrSession,
    Field(ContextField),
}

impl Stickiness {
    fn of(name: Option<&str>) -> Self {
        match name {
            None | Some("default") => Self::UserOrSession,
            // Not among the engine's fields of stickiness: a property of this name.
            Some("currentTime") => Self::Field(ContextField::Property("currentTime".into())),
            Some(name) => Self::Field(ContextField::of(name)),
        }
    }
}

impl VariantSet {
    /// The flag's own. The first variant's stickiness is that of all.
    ///
    /// `total_weight`: what is drawn from at least.
    pub(super) fn own(feature: &ClientFeature, total_weight: u32) -> Self {
        let variants = feature.variants.as_deref().unwrap_or_default();
        let sum = variants.iter().map(|variant| weight(variant.weight)).sum();
        let stickiness = variants.first().and_then(|variant| variant.stickiness.as_deref());
        Self {
            start: 0,
            count: variants.len(),
            total_weight: total_weight.max(sum),
            has_rest: total_weight > sum,
            stickiness: Stickiness::of(stickiness),
            group: None,
            has_overrides: variants.iter().any(|variant| variant.overrides.is_some()),
        }
    }

    /// Those of one strategy: drawn as the strategy's rollout is, whatever stickiness they name themselves (the
    /// client specification and the engine have it so).
    pub(super) fn of_strategy(strategy: &Strategy, start: usize, total_weight: u32) -> Self {
        let variants = strategy.variants.as_deref().unwrap_or_default();
        let sum = variants.iter().map(|variant| weight(variant.weight)).sum();
        let stickiness = super::rule::parameter(strategy, "stickiness");
        Self {
            start,
            count: variants.len(),
            total_weight: total_weight.max(sum),
            has_rest: total_weight > sum,
            stickiness: Stickiness::of(stickiness),
            group: super::rule::group(strategy),
            has_overrides: false,
        }
    }
}

/// Reading has refused negative weights and too many variants, so that the sum fits.
fn weight(weight: i32) -> u32 {
    u32::try_from(weight).unwrap_or(0)
}

pub(super) fn own(feature: &ClientFeature) -> Vec<Variant> {
    let variants = feature.variants.iter().flatten();
    let own = variants.map(|variant| Variant {
        name: variant.name.as_str().into(),
        payload: variant.payload.as_ref().map(parse),
        weight: weight(variant.weight),
        overrides: variant.overrides.iter().flatten().map(Override::of).collect(),
    });
    own.collect()
}

pub(super) fn of_strategy(strategy: &Strategy) -> impl Iterator<Item = Variant> {
    strategy.variants.iter().flatten().map(|variant| Variant {
        name: variant.name.as_str().into(),
        payload: variant.payload.as_ref().map(parse),
        weight: weight(variant.weight),
        overrides: Box::default(),
    })
}

fn parse(payload: &client_features::Payload) -> Payload {
    Payload::parse(&payload.payload_type, &payload.value)
}

impl Override {
    fn of(definition: &client_features::Override) -> Self {
        Self {
            field: ContextField::of(&definition.context_name),
            values: definition.values.iter().map(|value| value.as_str().into()).collect(),
        }
    }
}
