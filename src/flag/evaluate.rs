//! Evaluation: enabled and variant in one pass.

use std::sync::Arc;

use super::{CompiledFlag, EnvironmentFlags, EvaluationContext, Moment, Variant};

/// What a flag says for a context, before any type is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'s> {
    pub flag: &'s Arc<CompiledFlag>,
    /// Whether the flag is on for this context.
    pub enabled: bool,
    /// The variant chosen, with its position among the flag's variants (for counting).
    pub variant: Option<(usize, &'s Variant)>,
    /// The engine could not answer: a cycle of dependencies and the like.
    pub failure: Option<&'static str>,
}

impl EnvironmentFlags {
    /// Evaluates one flag; `None` if there is no flag of this name.
    pub fn evaluate<'s>(
        &'s self,
        _flag: &str,
        _context: &EvaluationContext<'_>,
        _moment: &Moment<'_>,
    ) -> Option<Outcome<'s>> {
        unimplemented!()
    }
}
