//! Choice of a variant, as JSON text that events of experiments contain. It is written once per definition.

use serde_json::{Map, Value, json};
use unleash_types::client_features::ClientFeature;

use super::variant::{Stickiness, Variant};

/// Type of the flags whose events contain it.
const EXPERIMENT: &str = "experiment";

/// Descriptions of the ways in which a set of variants chooses.
#[derive(Debug)]
pub(crate) struct Assignment {
    /// Description of a draw by the weights.
    pub(crate) drawn: Box<str>,
    /// Description of a choice by an override, or of a single variant.
    pub(crate) forced: Box<str>,
}

impl Assignment {
    /// Describes the choice among `variants`, which are those of the strategy `rule`, or the flag's own. `None` if the
    /// flag is not an experiment.
    pub(super) fn of(
        feature: &ClientFeature,
        rule: Option<usize>,
        stickiness: &Stickiness,
        variants: &[Variant],
    ) -> Option<Self> {
        let is_experiment = feature.feature_type.as_deref() == Some(EXPERIMENT);
        if !is_experiment || variants.is_empty() {
            return None;
        }
        let weights: Map<String, Value> =
            variants.iter().map(|variant| (variant.name.to_string(), variant.weight.into())).collect();
        let text = |how: &str| {
            let stickiness = stickiness.name();
            json!({"how": how, "rule": rule, "stickiness": stickiness, "weights": weights}).to_string().into()
        };
        let is_choice = variants.iter().filter(|variant| variant.weight > 0).count() > 1;
        Some(Self { drawn: text(if is_choice { "drawn" } else { "forced" }), forced: text("forced") })
    }

    /// Length in bytes of the longer description.
    pub(super) fn bytes(&self) -> usize {
        self.drawn.len().max(self.forced.len())
    }
}
