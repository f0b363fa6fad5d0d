//! Draws a variant: overrides first, then by hash, or at random if the context has no value to hash.

use std::io::Read;

use murmur3::murmur3_32;
use rand::Rng;

use super::{EvaluationInputs, Match};
use crate::compile::{ContextField, Stickiness, VariantSet};
use crate::{CompiledFlag, Variant};

/// A variant that was chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drawn<'f> {
    /// Position of the variant in [`CompiledFlag::variants`].
    pub(super) index: usize,
    pub(super) variant: &'f Variant,
    /// Choice of the variant, as JSON; `None` for flags that are not experiments.
    pub(super) assignment: Option<&'f str>,
}

/// Unleash's hash seed for variants. Rollouts use another seed, so that the two draws are independent.
const VARIANT_SEED: u32 = 86_028_157;

impl CompiledFlag {
    /// The variant for a context; `None` if no strategy matched.
    pub(super) fn draw_for<'f>(
        &'f self,
        matched: &Match<'f>,
        asked: EvaluationInputs<'_>,
    ) -> Option<Drawn<'f>> {
        match matched {
            Match::None | Match::Unmet(_) => None,
            // The flag's own variants apply only to contexts for which the flag is on.
            Match::Strategy(strategy) if strategy.off && strategy.variants.count == 0 => None,
            matched => self.draw(matched, asked),
        }
    }

    /// Draws a variant of the matched strategy, or of the flag itself if the strategy has none.
    pub(super) fn draw<'f>(&'f self, matched: &Match<'f>, asked: EvaluationInputs<'_>) -> Option<Drawn<'f>> {
        let set = match matched {
            Match::Strategy(strategy) if strategy.variants.count > 0 => &strategy.variants,
            _ => &self.own,
        };
        let variants = self.variants.get(set.start..)?.get(..set.count)?;
        if let Some(index) = overridden(set, variants, asked) {
            let assignment = set.assignment.as_ref().map(|of| &*of.forced);
            return Some(Drawn { index: set.start + index, variant: variants.get(index)?, assignment });
        }
        let group = set.group.as_deref().unwrap_or(&self.name);
        let bucket = bucket(set, group, asked)?;
        let mut upto = 0;
        let index = variants.iter().position(|variant| {
            upto += variant.weight;
            upto >= bucket
        })?;
        let assignment = set.assignment.as_ref().map(|of| &*of.drawn);
        Some(Drawn { index: set.start + index, variant: variants.get(index)?, assignment })
    }
}

/// Bucket of a context: a number from 1 to the total weight; `None` if the total weight is 0.
fn bucket(set: &VariantSet, group: &str, asked: EvaluationInputs<'_>) -> Option<u32> {
    if set.total_weight == 0 {
        return None;
    }
    let value = match &set.stickiness {
        Stickiness::UserOrSession => {
            let context = asked.context;
            let known = context.user_id.as_deref().or(context.session_id.as_deref());
            known.or(context.anonymous_id.as_deref())
        }
        Stickiness::Field(field) => asked.field(field),
    };
    let Some(value) = value else {
        return Some(rand::rng().random_range(1..=set.total_weight));
    };
    let mut text = group.as_bytes().chain(b":".as_slice()).chain(value.as_bytes());
    let hash = murmur3_32(&mut text, VARIANT_SEED).ok()?;
    Some(hash % set.total_weight + 1)
}

fn overridden(set: &VariantSet, variants: &[Variant], asked: EvaluationInputs<'_>) -> Option<usize> {
    if !set.has_overrides {
        return None;
    }
    variants.iter().position(|variant| {
        variant.overrides.iter().any(|r#override| {
            let value = asked.field(&r#override.field);
            value.is_some_and(|value| r#override.values.iter().any(|other| **other == *value))
        })
    })
}

impl<'q> EvaluationInputs<'q> {
    pub(super) fn field(&self, field: &ContextField) -> Option<&'q str> {
        match field {
            ContextField::UserId => self.context.user_id.as_deref(),
            ContextField::SessionId => self.context.session_id.as_deref(),
            ContextField::Environment => Some(self.environment),
            ContextField::AppName => Some(self.app_name()),
            ContextField::CurrentTime => Some(self.current_time()),
            ContextField::RemoteAddress => self.context.remote_address.as_deref(),
            ContextField::Property(name) => self.context.property(name),
        }
    }
}
