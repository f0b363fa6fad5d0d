//! One flag, compiled: its rules as closures of Unleash's engine, its variants with their payloads parsed.

use std::fmt;
use std::sync::Arc;

/// A flag ready to be evaluated.
pub struct CompiledFlag {
    pub name: Arc<str>,
    pub environment: Arc<str>,
    /// The version of the definition it was compiled from.
    pub version: u64,
    // rules, variants, dependencies: private to flag/
}

/// A variant, its payload parsed once at compile time.
#[derive(Debug)]
pub struct Variant {
    pub name: Arc<str>,
}

/// Why a definition was refused.
#[derive(Debug, thiserror::Error)]
#[error("flag {flag}: {field}: {message}")]
pub struct CompileError {
    pub flag: String,
    /// Where in the definition, as a path: `strategies[2].constraints[0].operator`.
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
    /// Compiles Unleash's feature JSON (segments already inlined).
    pub fn compile(_environment: &str, _version: u64, _definition: &str) -> Result<Self, CompileError> {
        unimplemented!()
    }
}
