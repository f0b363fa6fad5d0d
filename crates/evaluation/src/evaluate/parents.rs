//! Dependencies: whether the parents of a flag have the required state for a context.

use std::cell::Cell;

use super::{EvaluationInputs, Match};
use crate::compile::Dependency;
use crate::local::MAX_DEPENDENCY_LEVELS;
use crate::{CompiledFlag, EnvironmentFlags};

/// Maximum number of parents that one evaluation visits. A parent of two children counts twice.
pub(super) const MAX_PARENTS_ASKED: u32 = 400;

const UNUSABLE: &str = "a parent flag cannot be evaluated";
const MISSING: &str = "a parent flag does not exist";
const CYCLE: &str = "the flag's dependencies form a cycle";
pub(super) const TOO_MANY: &str = "the flag depends on more than 400 flags, each counted once per path to it";
pub(super) const TOO_DEEP: &str = "the flag depends on flags over more than 8 levels";
const NESTED: &str = "a parent flag has parents itself, which Unleash does not support";

/// The flag under evaluation and the descendants through which it was reached, to detect cycles and limit
/// depth.
pub(super) struct Chain<'c> {
    name: &'c str,
    below: Option<&'c Chain<'c>>,
    level: usize,
    left: &'c Cell<u32>,
}

impl EnvironmentFlags {
    /// Decides which strategy of a flag matches. On an error the flag is off; the error is the reason.
    pub(super) fn decide<'f>(
        &self,
        flag: &'f CompiledFlag,
        asked: EvaluationInputs<'_>,
        below: Option<&Chain<'_>>,
    ) -> Result<Match<'f>, &'static str> {
        let (switched_on, strategies) = flag.at(|| asked.current_ms());
        if !switched_on || flag.is_killed_at(asked.moment) {
            return Ok(Match::None);
        }
        if !flag.dependencies.is_empty() {
            let left = Cell::new(MAX_PARENTS_ASKED);
            let level = below.map_or(0, |below| below.level + 1);
            let chain =
                Chain { name: &flag.name, below, level, left: below.map_or(&left, |below| below.left) };
            for dependency in &flag.dependencies {
                let allows = match flag.chained {
                    true => self.allows(dependency, asked, &chain)?,
                    false => self.allows_child(dependency, flag, asked)?,
                };
                if !allows {
                    return Ok(Match::Unmet(&dependency.parent));
                }
            }
        }
        Ok(flag.matching(strategies, asked, &flag.name))
    }

    /// Whether a parent, evaluated exactly as on its own, has the state that the dependency requires.
    fn allows(
        &self,
        dependency: &Dependency,
        asked: EvaluationInputs<'_>,
        chain: &Chain<'_>,
    ) -> Result<bool, &'static str> {
        let parent = self.get(&dependency.parent).ok_or(MISSING)?;
        if chain.has(&parent.name) {
            return Err(CYCLE);
        }
        if parent.unusable.is_some() {
            return Err(UNUSABLE);
        }
        chain.left.set(chain.left.get().checked_sub(1).ok_or(TOO_MANY)?);
        if chain.level >= MAX_DEPENDENCY_LEVELS {
            return Err(TOO_DEEP);
        }
        let matched = self.decide(parent, asked, Some(chain))?;
        if matched.is_on() != dependency.enabled {
            return Ok(false);
        }
        if dependency.variants.is_empty() {
            return Ok(true);
        }
        let drawn = parent.draw_for(&matched, asked);
        Ok(drawn.is_some_and(|drawn| dependency.variants.iter().any(|name| **name == *drawn.variant.name)))
    }

    /// Like `allows`, with Unleash's semantics: a parent must not have parents itself. If it has (as in every
    /// cycle), the result is an error.
    fn allows_child(
        &self,
        dependency: &Dependency,
        child: &CompiledFlag,
        asked: EvaluationInputs<'_>,
    ) -> Result<bool, &'static str> {
        let parent = self.get(&dependency.parent).ok_or(MISSING)?;
        if parent.unusable.is_some() {
            return Err(UNUSABLE);
        }
        if !parent.dependencies.is_empty() {
            return Err(if parent.parents().any(|it| *it == *child.name) { CYCLE } else { NESTED });
        }
        // As in the engine, a rollout without a group is drawn for the flag that was requested, which is the
        // child.
        let (switched_on, strategies) = parent.at(|| asked.current_ms());
        let matched = parent.matching(strategies, asked, &child.name);
        let enabled = switched_on && !parent.is_killed_at(asked.moment) && matched.is_on();
        if enabled != dependency.enabled {
            return Ok(false);
        }
        if dependency.variants.is_empty() {
            return Ok(true);
        }
        // As in the engine, variants are checked even if the parent is off, and a parent without a variant
        // satisfies every list.
        Ok(parent.draw(&matched, asked).is_none_or(|drawn| {
            let mut expected = dependency.variants.iter();
            expected.any(|name| **name == *drawn.variant.name)
        }))
    }
}

impl Chain<'_> {
    fn has(&self, name: &str) -> bool {
        let mut link = Some(self);
        while let Some(chain) = link {
            if chain.name == name {
                return true;
            }
            link = chain.below;
        }
        false
    }
}
