//! API tokens: who calls over HTTP, and what they may do where.
//!
//! ```text
//!  flagstream token …, /api/v1/tokens ─► table (database) ── a look a second ──► register (memory) ─► every call
//! ```
//!
//! The [`register`] of an instance holds all valid tokens, so that a call never waits for the database, a revoked token
//! is refused everywhere within a second or two, and a flood of made-up tokens costs neither memory nor questions.
//! Requests that come through Kafka are Kafka's to allow; no token is asked of them.

mod grant;
mod order;
mod pace;
pub mod register;
pub mod table;
mod token;

pub use grant::{Environments, Grant};
pub use order::{Order, OrderProblem};
pub(crate) use pace::network;
pub use pace::{Addresses, TooFast, TooMuch};
pub use register::{Entry, Found, Register};
pub use token::{Token, TokenId};
