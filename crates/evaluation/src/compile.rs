//! Compilation of one flag: rules become closures of Unleash's engine, variant payloads are parsed once.

mod assignment;
mod constraint;
mod expression;
mod phase;
mod properties;
mod reads;
mod rule;
mod summary;
mod variant;

use std::fmt;
use std::sync::Arc;

use unleash_types::client_features::{ClientFeature, FeatureDependency, Operator};

pub use expression::{
    MAX_EXPRESSION_BYTES, MAX_FLAG_EXPRESSIONS, MAX_FLAG_EXPRESSIONS_BYTES, MAX_SEARCHED_BYTES,
};
pub use summary::Summary;
pub use variant::{Payload, Variant};

use assignment::Assignment;
pub(super) use constraint::CompiledConstraint;
pub(super) use phase::Phase;
pub(super) use properties::{ContextField, Properties};
pub(super) use rule::{Condition, StrategyRule, parameter};
pub(super) use variant::{Stickiness, VariantSet};

use crate::Source;
use crate::kill_switch::KillSwitch;

use super::cacheability::Dependence;
use super::definition;
use super::definition::local::LocalExtension;
use expression::Expressions;
use properties::PropertyNames;

/// Maximum number of problems that are recorded for one flag.
const MAX_PROBLEMS: usize = 20;

/// A flag ready to be evaluated.
pub struct CompiledFlag {
    pub name: Arc<str>,
    pub environment: Arc<str>,
    /// Version of the flag in force: the definition's version, or the kill switch's version if that is
    /// higher.
    pub version: u64,
    /// Version of the definition that the flag was compiled from.
    pub definition_version: u64,
    /// The flag's kill switch. `None`: it was never killed, or the kill switch has been removed since.
    pub(super) switch: Option<Arc<KillSwitch>>,
    /// Source and checksum of the definition; set for flags that were read from the definitions topic.
    pub provenance: Option<Provenance>,
    /// Value of the record that the flag was read from; set like `provenance`.
    pub record: Option<Arc<[u8]>>,
    /// Whether Unleash's SDKs report every evaluation of the flag (`impressionData`).
    pub impression_data: bool,
    /// Whether the flag is switched on in its environment. The strategies decide for which contexts.
    pub(super) switched_on: bool,
    /// Strategies of all phases.
    pub(super) strategies: Box<[StrategyRule]>,
    /// Phases of the schedule, ordered by time. Empty if the same strategies always apply.
    pub(super) phases: Box<[Phase]>,
    /// The flag's own variants, then those of its strategies.
    pub(super) variants: Box<[Variant]>,
    /// Describes the flag's own variants within `variants`.
    pub(super) own: VariantSet,
    pub(super) dependencies: Box<[Dependency]>,
    /// If true, each parent is evaluated exactly as on its own and may have parents itself (local flags).
    pub(super) chained: bool,
    /// Context properties that the rules read.
    pub(super) properties: Properties,
    /// Names of all properties that the outcome depends on, sorted.
    pub(super) reads: Box<[Box<str>]>,
    /// Other inputs that the outcome depends on.
    pub(super) dependence: Dependence,
    /// Upper bound of the memory used by the compiled regular expressions, in bytes.
    expression_bytes: usize,
    /// Parts of the definition that cannot be evaluated, each with its path and the reason.
    problems: Box<[Box<str>]>,
    /// Reason why the definition cannot be evaluated at all; `None` if it can.
    pub(super) unusable: Option<Box<str>>,
    summary: Summary,
}

/// Origin of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    pub source: Source,
    pub checksum: Box<str>,
    /// Revision of the local flag that the definition was generated from; `None` for other sources.
    pub revision: Option<i64>,
}

/// Required state of another flag, the parent.
pub(super) struct Dependency {
    pub(super) parent: Box<str>,
    pub(super) enabled: bool,
    pub(super) variants: Box<[Box<str>]>,
}

/// Error of a definition that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("flag {flag}: {field}: {message}")]
pub struct CompileError {
    pub flag: String,
    /// Path of the refused field in the definition, such as `strategies[2].constraints[0].operator`.
    pub field: String,
    pub message: String,
}

impl fmt::Debug for CompiledFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledFlag")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl CompiledFlag {
    /// Compiles Unleash's feature JSON (segments already inlined, see [`definition::inline_segments`]).
    pub fn compile(environment: &str, version: u64, definition: &str) -> Result<Self, CompileError> {
        let (feature, private) = definition::read(definition)?;
        Self::from_feature(environment, version, &feature, &private)
    }

    pub(crate) fn from_feature(
        environment: &str,
        version: u64,
        feature: &ClientFeature,
        private: &LocalExtension,
    ) -> Result<Self, CompileError> {
        let mut names = PropertyNames::of(feature.strategies.as_deref().unwrap_or_default());
        let mut variants = variant::own(feature);
        let mut own = VariantSet::own(feature, private.total_weight);
        own.assignment = Assignment::of(feature, None, &own.stickiness, &variants);
        let (mut strategies, mut expressions) = (Vec::new(), Expressions::default());
        for (index, strategy) in feature.strategies.iter().flatten().enumerate() {
            let said = private.strategies.get(index);
            let total_weight = said.map_or(0, |said| said.total_weight);
            let mut set = VariantSet::of_strategy(strategy, variants.len(), total_weight);
            let of_strategy: Vec<_> = variant::of_strategy(strategy).collect();
            set.assignment = Assignment::of(feature, Some(index), &set.stickiness, &of_strategy);
            variants.extend(of_strategy);
            let refused = |message| CompileError {
                flag: feature.name.clone(),
                field: format!("strategies[{index}]"),
                message,
            };
            let (condition, patterns) =
                rule::compile(strategy, &mut names, &mut expressions).map_err(refused)?;
            strategies.push(StrategyRule {
                condition,
                clauses: said.iter().flat_map(|it| &it.conditions).map(CompiledConstraint::of).collect(),
                patterns: patterns.into(),
                off: said.is_some_and(|it| it.off),
                identified: said.is_some_and(|it| it.identified),
                group: rule::group(strategy),
                drawn_by_default: rule::is_drawn_by_default(strategy),
                variants: set,
            });
        }
        let sets = std::iter::once(&own).chain(strategies.iter().map(|strategy| &strategy.variants));
        let phases = phase::phases(&private.phases);
        let problems = problems(feature);
        let dependence = Dependence::of(feature, private, sets, &phases);
        Ok(Self {
            name: feature.name.as_str().into(),
            environment: environment.into(),
            version,
            definition_version: version,
            switch: None,
            provenance: None,
            record: None,
            impression_data: feature.impression_data.unwrap_or(false),
            switched_on: feature.enabled,
            summary: Summary::of(feature, private),
            strategies: strategies.into(),
            phases,
            variants: variants.into(),
            own,
            dependencies: feature.dependencies.iter().flatten().map(Dependency::of).collect(),
            chained: private.chained,
            properties: names.finish(),
            reads: reads::properties(feature, private),
            dependence,
            expression_bytes: expressions.bytes(),
            problems,
            unusable: private.unusable.as_deref().map(Into::into),
        })
    }

    /// A flag whose definition cannot be compiled: it is off, and every answer has the reason as its error.
    pub fn unusable(environment: &str, name: &str, version: u64, reason: &str) -> Self {
        let reason = definition::shorten(reason, definition::MAX_REASON_BYTES);
        Self {
            name: name.into(),
            environment: environment.into(),
            version,
            definition_version: version,
            switch: None,
            provenance: None,
            record: None,
            impression_data: false,
            switched_on: false,
            summary: Summary::nothing(),
            strategies: Box::default(),
            phases: Box::default(),
            variants: Box::default(),
            own: VariantSet::own(&ClientFeature::default(), 0),
            dependencies: Box::default(),
            chained: false,
            properties: Properties::default(),
            reads: Box::default(),
            dependence: Dependence::default(),
            expression_bytes: 0,
            problems: Box::default(),
            unusable: Some(reason.into()),
        }
    }

    /// Upper bound of the memory used by the flag's compiled regular expressions, in bytes.
    pub fn expression_bytes(&self) -> usize {
        self.expression_bytes
    }

    /// Reason why the definition cannot be evaluated at all; `None` if it can.
    pub fn unusable_because(&self) -> Option<&str> {
        self.unusable.as_deref()
    }

    /// Parts of the definition that cannot be evaluated, each with its path and the reason. These are
    /// constraints with an unknown operator or an invalid value; such a constraint never holds.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(|problem| problem.as_ref())
    }

    /// All variants that the flag can answer with, in the order of [`Outcome::variant`]'s positions: its own,
    /// then those of its strategies. A name may occur more than once.
    ///
    /// [`Outcome::variant`]: super::Outcome::variant
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// Length in bytes of the longest value that the flag can answer with, and of the description of its choice.
    pub fn largest_value_bytes(&self) -> usize {
        let sets =
            std::iter::once(&self.own).chain(self.strategies.iter().map(|strategy| &strategy.variants));
        let assignments = sets.filter_map(|set| set.assignment.as_ref()).map(Assignment::bytes);
        let assignment = assignments.max().unwrap_or_default();
        let bytes = |variant: &Variant| match &variant.payload {
            Some(payload) => payload.text.len().max(variant.name.len()),
            None => variant.name.len(),
        };
        self.variants.iter().map(bytes).max().unwrap_or_default() + assignment
    }

    /// Names of the flags that this flag depends on.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        self.dependencies.iter().map(|dependency| dependency.parent.as_ref())
    }

    /// Whether the flag is on for every context whenever it is switched on.
    pub fn is_unconditional(&self) -> bool {
        let first_off = self.strategies.iter().position(|strategy| strategy.off);
        let mut before = self.strategies.iter().take(first_off.unwrap_or(usize::MAX));
        let always = |strategy: &StrategyRule| {
            let beside = strategy.clauses.is_empty() && strategy.patterns.is_empty();
            matches!(strategy.condition, Condition::Always) && beside
        };
        let timeless = self.dependencies.is_empty() && self.phases.is_empty();
        timeless && (self.strategies.is_empty() || before.any(always))
    }

    /// Descriptive data of the flag for display.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Whether the flag is switched on in its environment, whatever the context.
    pub fn is_switched_on(&self) -> bool {
        self.switched_on
    }
}

/// The first [`MAX_PROBLEMS`] problems of the definition's constraints.
fn problems(feature: &ClientFeature) -> Box<[Box<str>]> {
    let constraints = feature.strategies.iter().flatten().flat_map(|it| it.constraints.iter().flatten());
    let problems = constraints.filter_map(|constraint| match &constraint.operator {
        Operator::Unknown(problem) => Some(definition::shorten(problem, definition::MAX_REASON_BYTES).into()),
        _ => None,
    });
    problems.take(MAX_PROBLEMS).collect()
}

impl Dependency {
    fn of(dependency: &FeatureDependency) -> Self {
        Self {
            parent: dependency.feature.as_str().into(),
            enabled: dependency.enabled.unwrap_or(true),
            variants: dependency.variants.iter().flatten().map(|name| name.as_str().into()).collect(),
        }
    }
}

#[cfg(test)]
#[path = "compile/tests.rs"]
mod tests;
