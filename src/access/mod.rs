//! Authentication of HTTP callers by API tokens, and what each token permits.
//!
//! ```text
//!  flagstream token …, /api/v1/tokens ─► table (database) ── polled each second ─► register (memory) ─► every request
//! ```
//!
//! The [`register`] of an instance holds all valid tokens. Therefore a request with a known token never waits for the
//! database, a revoked token is refused everywhere within two seconds, and a flood of invented tokens costs neither
//! memory nor queries. Requests through Kafka need no token: Kafka's own access control applies to them.

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
