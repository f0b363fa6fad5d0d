//! Regular expressions of a flag, compiled within limits.
//!
//! ```text
//! REGEX constraint ──► Expressions (limits of one flag) ──► pool (one compiled expression for one text) ──► Pattern
//! ```
//!
//! A short expression may compile into megabytes (`\\w{30}` needs more than one), so memory is counted while
//! a flag's expressions are compiled. A compilation fails as soon as it exceeds the remaining limit.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use regex::{Regex, RegexBuilder};
use unleash_types::client_features::Constraint;

use super::properties::ContextField;

/// Maximum memory of one compiled expression, in bytes.
pub const MAX_EXPRESSION_BYTES: usize = 2 << 20;
/// Maximum memory of all compiled expressions of a flag, in bytes.
pub const MAX_FLAG_EXPRESSIONS_BYTES: usize = 8 << 20;
/// Maximum number of regular expressions of a flag, in all steps of its schedule together.
pub const MAX_FLAG_EXPRESSIONS: usize = 100;
/// Longest text that is searched for a match, in bytes. A longer text does not match.
pub const MAX_SEARCHED_BYTES: usize = 4 << 10;

/// Size limit of the first attempt to compile an expression, in bytes; each further attempt doubles the
/// limit.
const FIRST_ATTEMPT_BYTES: usize = 16 << 10;
/// Maximum memory of the search cache of an expression, in bytes.
const SEARCH_CACHE_BYTES: usize = 256 << 10;
/// Number of added expressions after which unused expressions are removed from the pool.
const SWEEP_AFTER: usize = 1_000;

/// A compiled expression, shared by all flags that use it.
#[derive(Debug)]
pub(crate) struct Expression {
    /// `None` if the expression is malformed; it then matches no text.
    regex: Option<Regex>,
    /// Upper bound of the memory used, in bytes; at most twice the real size.
    bytes: usize,
}

/// Regular expression that a strategy requires one context field to match.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) field: ContextField,
    /// `None` for the empty expression, which matches every text of any length.
    expression: Option<Arc<Expression>>,
    inverted: bool,
    /// Whether texts longer than [`MAX_SEARCHED_BYTES`] are searched too. True for an expression that was
    /// generated from a list of literal texts.
    unlimited: bool,
}

/// Collects the expressions of one flag while it is compiled.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    count: usize,
    bytes: usize,
    known: HashMap<(Box<str>, bool), Arc<Expression>>,
}

type Pool = HashMap<(Box<str>, bool), Weak<Expression>>;

/// Expressions in use, keyed by text and whether case is ignored.
static POOL: LazyLock<Mutex<(Pool, usize)>> = LazyLock::new(Mutex::default);

impl Pattern {
    /// Whether the pattern holds for a context value. An absent value (`None`) does not match.
    pub(crate) fn holds(&self, text: Option<&str>) -> bool {
        let found = text.is_some_and(|text| match &self.expression {
            None => true,
            Some(_) if text.len() > MAX_SEARCHED_BYTES && !self.unlimited => false,
            Some(expression) => expression.regex.as_ref().is_some_and(|regex| regex.is_match(text)),
        });
        found != self.inverted
    }
}

impl Expressions {
    /// Builds the pattern of a constraint with the operator `REGEX`.
    pub(super) fn pattern(&mut self, constraint: &Constraint) -> Result<Pattern, String> {
        let text = constraint.value.as_deref().unwrap_or_default();
        Ok(Pattern {
            field: ContextField::of(&constraint.context_name),
            expression: self.get(text, constraint.case_insensitive)?,
            inverted: constraint.inverted,
            unlimited: false,
        })
    }

    /// Builds the pattern of an expression that was generated from a list of literal texts.
    pub(super) fn literal(&mut self, constraint: &Constraint, text: &str) -> Result<Pattern, String> {
        Ok(Pattern {
            field: ContextField::of(&constraint.context_name),
            expression: self.get(text, constraint.case_insensitive)?,
            inverted: constraint.inverted,
            unlimited: true,
        })
    }

    /// Upper bound of the memory used by all expressions, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn get(&mut self, text: &str, ignore_case: bool) -> Result<Option<Arc<Expression>>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        self.count += 1;
        if self.count > MAX_FLAG_EXPRESSIONS {
            return Err(format!("the flag has more than {MAX_FLAG_EXPRESSIONS} regular expressions"));
        }
        let key = (Box::from(text), ignore_case);
        if let Some(known) = self.known.get(&key) {
            return Ok(Some(Arc::clone(known)));
        }
        let left = MAX_FLAG_EXPRESSIONS_BYTES - self.bytes;
        let expression = match pooled(&key) {
            Some(expression) if expression.bytes > left => return Err(too_large()),
            Some(expression) => expression,
            None => {
                let compiled = compile(text, ignore_case, left.min(MAX_EXPRESSION_BYTES));
                let compiled = compiled.ok_or_else(|| match left >= MAX_EXPRESSION_BYTES {
                    true => {
                        format!(
                            "the compiled regular expression takes more than {MAX_EXPRESSION_BYTES} bytes; simplify it"
                        )
                    }
                    false => too_large(),
                })?;
                pool(&key, Arc::new(compiled))
            }
        };
        self.bytes += expression.bytes;
        self.known.insert(key, Arc::clone(&expression));
        Ok(Some(expression))
    }
}

fn too_large() -> String {
    format!(
        "the flag's compiled regular expressions take more than {MAX_FLAG_EXPRESSIONS_BYTES} bytes together; \
         simplify or remove some"
    )
}

/// Compiles an expression; `None` if it takes more than `limit` bytes. The library does not report the memory
/// used, so the size limit is doubled until the compilation succeeds.
fn compile(text: &str, ignore_case: bool, limit: usize) -> Option<Expression> {
    let mut bytes = FIRST_ATTEMPT_BYTES.min(limit);
    loop {
        let compiled = RegexBuilder::new(text)
            .case_insensitive(ignore_case)
            .size_limit(bytes)
            .dfa_size_limit(SEARCH_CACHE_BYTES)
            .build();
        match compiled {
            Ok(regex) => return Some(Expression { regex: Some(regex), bytes }),
            Err(regex::Error::CompiledTooBig(_)) if bytes == limit => return None,
            Err(regex::Error::CompiledTooBig(_)) => bytes = bytes.saturating_mul(2).min(limit),
            Err(_) => return Some(Expression { regex: None, bytes: 0 }),
        }
    }
}

fn pooled(key: &(Box<str>, bool)) -> Option<Arc<Expression>> {
    let pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    pool.0.get(key).and_then(Weak::upgrade)
}

/// Adds an expression to the pool and returns it. If another thread added the same expression meanwhile, that
/// one is returned.
fn pool(key: &(Box<str>, bool), expression: Arc<Expression>) -> Arc<Expression> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let (expressions, swept) = &mut *pool;
    if expressions.len() > *swept + SWEEP_AFTER {
        expressions.retain(|_, expression| expression.strong_count() > 0);
        *swept = expressions.len();
    }
    if let Some(other) = expressions.get(key).and_then(Weak::upgrade) {
        return other;
    }
    expressions.insert(key.clone(), Arc::downgrade(&expression));
    expression
}

#[cfg(test)]
#[path = "expression/tests.rs"]
mod tests;
