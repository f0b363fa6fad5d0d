//! Tests of the process through its binary: signals, standard streams, file modes. They need no other services.
#![cfg(unix)]
#![allow(unsafe_code)] // signals to processes
#![allow(clippy::unwrap_used, clippy::panic)]

mod authentication;
mod bench;
mod certificates;
mod child;
mod files;
mod handles;
mod health;
mod proxies;
mod signals;
mod streams;
