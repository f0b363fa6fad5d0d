//! Variants: their weights, overrides and stickiness, with payloads that are parsed once.

use std::sync::Arc;

use unleash_types::client_features::{self, ClientFeature, Strategy};

use super::assignment::Assignment;
use super::properties::ContextField;
pub use crate::value::Payload;

/// Variant whose payload is parsed at compile time.
#[derive(Debug)]
pub struct Variant {
    pub name: Arc<str>,
    pub payload: Option<Payload>,
    pub(crate) weight: u32,
    pub(crate) overrides: Box<[Override]>,
}

/// Context values that select a variant regardless of the draw.
#[derive(Debug)]
pub(crate) struct Override {
    pub(crate) field: ContextField,
    pub(crate) values: Box<[Box<str>]>,
}

/// Variants that share a draw: the flag's own, or those of one strategy.
#[derive(Debug)]
pub(crate) struct VariantSet {
    /// Position of the first variant among all variants of the flag.
    pub(crate) start: usize,
    pub(crate) count: usize,
    /// Range of the draw; at least the sum of the weights.
    pub(crate) total_weight: u32,
    /// Whether a draw may select no variant, because `total_weight` exceeds the sum of the weights.
    pub(crate) has_rest: bool,
    pub(crate) stickiness: Stickiness,
    /// Group that is hashed together with the stickiness value; `None` means the flag's name.
    pub(crate) group: Option<Box<str>>,
    pub(crate) has_overrides: bool,
    /// Description of the choice; `None` for flags that are not experiments.
    pub(crate) assignment: Option<Assignment>,
}

/// Context field whose value decides the draw. If the context has no value there, the draw is random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stickiness {
    /// `default`: the user, or the session if there is no user.
    UserOrSession,
    Field(ContextField),
}

impl Stickiness {
    fn of(name: Option<&str>) -> Self {
        match name {
            None | Some("default") => Self::UserOrSession,
            // The engine has no stickiness by time, so the name denotes a property.
            Some("currentTime") => Self::Field(ContextField::Property("currentTime".into())),
            Some(name) => Self::Field(ContextField::of(name)),
        }
    }

    /// Name of the context field; `default` for the user or the session.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::UserOrSession => "default",
            Self::Field(ContextField::UserId) => "userId",
            Self::Field(ContextField::SessionId) => "sessionId",
            Self::Field(ContextField::Environment) => "environment",
            Self::Field(ContextField::AppName) => "appName",
            Self::Field(ContextField::CurrentTime) => "currentTime",
            Self::Field(ContextField::RemoteAddress) => "remoteAddress",
            Self::Field(ContextField::Property(name)) => name,
        }
    }
}

impl VariantSet {
    /// The flag's own variants. The stickiness of the first variant applies to all.
    ///
    /// `total_weight`: lower bound of the range of the draw.
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
            assignment: None,
        }
    }

    /// Variants of one strategy. They are drawn with the stickiness of the strategy's rollout and not their
    /// own, as the client specification and the engine define it.
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
            assignment: None,
        }
    }
}

/// Weight as `u32`. Reading has refused negative weights and too many variants, so the sum of the weights
/// fits.
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
