//! OpenFeature providers for flagstream:
//!
//! | provider | evaluates | each evaluation is | feature |
//! |---|---|---|---|
//! | [`HttpProvider`] | in a flagstream service, over HTTP | an event, and a row of the audit trail | `http` (default) |
//! | `InProcessProvider` | in memory, with flags that follow Kafka | not recorded anywhere | `in-process` |
//!
//! Both give the same results. Every evaluation requests a type, so the service's rules for types apply: a variant's
//! payload `"5"` is an integer if an integer is requested. OpenFeature for Rust passes no default to the provider; it
//! stays in the application, as in `client.get_bool_value("f", None, None).await.unwrap_or(false)`. Without a value the
//! result is therefore an error, even if nothing failed: its code is then `General("DEFAULT")` (no rule applies to this
//! context) or `General("DISABLED")` (the flag is disabled by a kill switch), which other languages report as the
//! reason of a default value.

mod answer;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "in-process")]
mod in_process;
mod provider;
mod question;

#[cfg(feature = "http")]
pub use http::{HttpOptions, HttpProvider, InvalidOption, Token};
#[cfg(feature = "in-process")]
pub use in_process::{InProcessProvider, StartError};
