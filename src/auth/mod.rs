//! Authentication of HTTP callers by API tokens, and what each token permits.
//!
//! ```text
//!  flagstream token …, /api/v1/tokens ─► table (database) ── polled each second ─► register (memory) ─► every request
//! ```
//!
//! The [`token_cache`] of an instance holds all valid tokens. Therefore a request with a known token never waits for the
//! database, a revoked token is refused everywhere within two seconds, and a flood of invented tokens costs neither
//! memory nor queries. Requests through Kafka need no token: Kafka's own access control applies to them.

mod grant;
mod new_token;
mod rate_limit;
mod restriction;
pub mod table;
mod token;
pub mod token_cache;

pub use grant::{Environments, Grant};
pub use new_token::{NewToken, NewTokenError};
pub(crate) use rate_limit::network;
pub use rate_limit::{Addresses, TooFast, TooMuch};
pub use restriction::{FlagFacts, Outside, Restrictions};
pub use token::{Token, TokenId};
pub use token_cache::{CachedToken, TokenCache, TokenLookup};
