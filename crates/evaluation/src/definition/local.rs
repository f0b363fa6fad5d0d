//! Extensions for local flags that Unleash's format cannot express, in members named `local`.
//!
//! - `strategies[].local.off`: the flag is off for contexts that match the strategy; it may have a value
//!   (from the strategy's variants) all the same.
//! - `strategies[].local.identified`: a context with neither a user nor a session does not match.
//! - `strategies[].local.totalWeight`, `local.totalWeight`: variants are drawn from a range of at least this
//!   size. If the weights add up to less, the rest of the range selects no variant.
//! - `strategies[].local.conditions`: constraints with additional operators, `{contextNames, operator,
//!   values}`: `IN` compares numbers as numbers; `HAS` tests membership in a list; `CONTAINS` searches a list
//!   or a text.
//! - `local.schedule`: strategies that replace the others from a given time on.
//! - `local.unusable`: the reason why the definition cannot be evaluated. If a feeder refuses a definition
//!   and no valid version exists, it publishes this instead, so that callers get the reason instead of an
//!   unknown flag.
//! - `local.owner`: who owns the flag.
//! - `local.chained`: parents are evaluated exactly as on their own, and may have parents themselves.

use chrono::DateTime;
use serde_json::Value;
use unleash_types::client_features::ClientFeature;

use super::place::{JsonNode, Refusal};
use super::{
    MAX_CONSTRAINTS_PER_STRATEGY, MAX_STEPS, MAX_STRATEGIES, MAX_VALUES_PER_CONSTRAINT, MAX_WEIGHT, feature,
};

/// Local extensions of a feature. `strategies` has the order of the feature's strategies.
#[derive(Debug, Default)]
pub struct LocalExtension {
    pub strategies: Vec<LocalStrategyExtension>,
    /// Phases of the schedule; empty if the same strategies always apply.
    pub phases: Vec<PhaseDefinition>,
    pub chained: bool,
    /// Owner of a local flag.
    pub owner: Option<String>,
    /// Lower bound of the range from which the flag's own variants are drawn.
    pub total_weight: u32,
    /// Reason why the flag cannot be evaluated; `None` if it can.
    pub unusable: Option<String>,
}

#[derive(Debug, Default)]
pub struct LocalStrategyExtension {
    pub off: bool,
    /// If true, only contexts with a user or a session match.
    pub identified: bool,
    /// Lower bound of the range from which the strategy's variants are drawn.
    pub total_weight: u32,
    pub conditions: Vec<LocalConditionExtension>,
}

#[derive(Debug, Clone)]
pub struct LocalConditionExtension {
    pub context_names: Vec<String>,
    pub operator: LocalOperatorExtension,
    /// Values to compare with: texts, numbers and booleans.
    pub values: Vec<Value>,
    pub inverted: bool,
    pub case_insensitive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalOperatorExtension {
    In,
    Has,
    Contains,
}

/// Phase of a schedule: its start and the number of its strategies.
#[derive(Debug, Clone, Copy)]
pub struct PhaseDefinition {
    /// Start of the phase, in milliseconds since 1970.
    pub from_ms: i64,
    pub enabled: bool,
    pub strategies: usize,
}

/// Reads the local extensions, and appends the strategies of later phases to the feature's own.
pub(super) fn read(place: &JsonNode<'_>, feature: &mut ClientFeature) -> Result<LocalExtension, Refusal> {
    let own = place.list("strategies", MAX_STRATEGIES, strategy)?.unwrap_or_default();
    let Some(local) = place.member("local") else {
        return Ok(LocalExtension { strategies: own, ..LocalExtension::default() });
    };
    let chained = local.optional_boolean("chained")?.unwrap_or(false);
    let unusable = local.optional_text("unusable")?;
    let total_weight = total_weight(&local)?;
    // An owner that is not a text is no reason to refuse a definition.
    let owner = local.member("owner").and_then(|owner| owner.value.as_str()).map(str::to_owned);
    let mut private =
        LocalExtension { strategies: own, phases: Vec::new(), chained, owner, total_weight, unusable };
    let steps = local.list("schedule", MAX_STEPS, step)?.unwrap_or_default();
    if !steps.is_empty() {
        let base = private.strategies.len();
        private.phases.push(PhaseDefinition {
            from_ms: i64::MIN,
            enabled: feature.enabled,
            strategies: base,
        });
    }
    let all = feature.strategies.get_or_insert_default();
    for (phase, strategies, more) in steps {
        if private.phases.last().is_some_and(|last| last.from_ms >= phase.from_ms) {
            return Err(local.refuse_member(
                "schedule",
                "the steps must be ordered by `from`, and no two may have the same time",
            ));
        }
        private.phases.push(phase);
        private.strategies.extend(more);
        all.extend(strategies);
    }
    Ok(private)
}

type Step = (PhaseDefinition, Vec<unleash_types::client_features::Strategy>, Vec<LocalStrategyExtension>);

fn step(place: &JsonNode<'_>) -> Result<Step, Refusal> {
    let from = place.required_text("from")?;
    let from = DateTime::parse_from_rfc3339(&from)
        .map_err(|_| place.refuse_member("from", "expected a time in RFC 3339 format"))?;
    let enabled = place.optional_boolean("enabled")?;
    let strategies = place.list("strategies", MAX_STRATEGIES, feature::strategy)?.unwrap_or_default();
    let phase = PhaseDefinition {
        from_ms: from.timestamp_millis(),
        enabled: enabled.ok_or_else(|| place.refuse_member("enabled", "is required"))?,
        strategies: strategies.len(),
    };
    Ok((phase, strategies, place.list("strategies", MAX_STRATEGIES, strategy)?.unwrap_or_default()))
}

fn strategy(place: &JsonNode<'_>) -> Result<LocalStrategyExtension, Refusal> {
    let Some(local) = place.member("local") else {
        return Ok(LocalStrategyExtension::default());
    };
    Ok(LocalStrategyExtension {
        off: local.optional_boolean("off")?.unwrap_or(false),
        identified: local.optional_boolean("identified")?.unwrap_or(false),
        total_weight: total_weight(&local)?,
        conditions: local.list("conditions", MAX_CONSTRAINTS_PER_STRATEGY, condition)?.unwrap_or_default(),
    })
}

/// Lower bound of the range of a draw; 0 if the member is absent.
fn total_weight(local: &JsonNode<'_>) -> Result<u32, Refusal> {
    let Some(place) = local.member("totalWeight") else { return Ok(0) };
    let total = place.value.as_u64().and_then(|total| u32::try_from(total).ok());
    let limit = MAX_WEIGHT.unsigned_abs();
    let refusal = || place.refuse(format!("expected a whole number from 0 to {limit}"));
    total.filter(|total| *total <= limit).ok_or_else(refusal)
}

fn condition(place: &JsonNode<'_>) -> Result<LocalConditionExtension, Refusal> {
    let names = place.texts("contextNames", MAX_CONSTRAINTS_PER_STRATEGY)?.unwrap_or_default();
    if names.is_empty() {
        return Err(place.refuse_member("contextNames", "is required"));
    }
    let operator = match place.required_text("operator")?.as_str() {
        "IN" => LocalOperatorExtension::In,
        "HAS" => LocalOperatorExtension::Has,
        "CONTAINS" => LocalOperatorExtension::Contains,
        _ => return Err(place.refuse_member("operator", "expected IN, HAS or CONTAINS")),
    };
    let scalar = |value: &JsonNode<'_>| match value.value {
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(value.refuse("expected a string, a number, true or false"))
        }
        scalar => Ok(scalar.clone()),
    };
    Ok(LocalConditionExtension {
        context_names: names,
        operator,
        values: place.list("values", MAX_VALUES_PER_CONSTRAINT, scalar)?.unwrap_or_default(),
        inverted: place.optional_boolean("inverted")?.unwrap_or(false),
        case_insensitive: place.optional_boolean("caseInsensitive")?.unwrap_or(false),
    })
}
