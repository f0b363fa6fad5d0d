//! OpenFeature for flagstream, two ways:
//!
//! | provider | asks | each evaluation is | feature |
//! |---|---|---|---|
//! | [`HttpProvider`] | a flagstream, over HTTP | an event, and a row of the audit trail | `http` (default) |
//! | `InProcessProvider` | its own memory, which follows the flags in Kafka | known to this process alone | `in-process` |
//!
//! Both answer the same. Whatever is asked for has a type, so the service's rules for types hold: a variant's payload
//! `"5"` is an integer where one is asked for. OpenFeature for Rust takes no default: it stays with the caller, as in
//! `client.get_bool_value("f", None, None).await.unwrap_or(false)`. So where there is no value the result is an error,
//! also where that is no failure: then its code is `General("DEFAULT")` (nothing applies to this context) or
//! `General("DISABLED")` (somebody killed the flag), the reason that a default has elsewhere.

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
