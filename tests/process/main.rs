//! The process and its surroundings, by the binary alone: signals, standard streams, file modes. Needs no services.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod child;
mod files;
mod handles;
mod health;
mod signals;
mod streams;
