//! Cache of evaluation outcomes in Redis that any service can read, and that flagstream's readers never find stale.
//!
//! ```text
//!  feature-flag-events ──► worker: subject? ─► evaluate ─► writer ──► feature_flag:eval:…, ff_eval:…
//!                                                            │             ▲
//!                                                            └─ lists ───► chunks of each flag's keys
//!                                                                          │
//!  feature-flag-updates ─► sweep: 1 raise minimum version ──► 2 refresh ◄──┘
//!
//!  reader ◄── value and minimum version: is the value at least as new as the flags in force?
//! ```
//!
//! A value contains the version of the definitions that it was computed from ([`CachedOutcome`]). Three mechanisms keep it from
//! being stale: Redis itself rejects an older value over a newer one (`script`); readers compare the version with the
//! flags in force and with the flag's minimum version, whose cost does not depend on the number of keys ([`reader`]);
//! and a change finds all keys of its flag in lists, without a scan (`writer`, `index`, `invalidation`).
//!
//! An unavailable Redis affects only this cache: the warmer has its own consumers, keeps one batch, and retries.

mod cache_view;
mod cached_outcome;
pub mod client;
mod clients;
mod connection;
mod context_hash;
pub mod edge;
mod erase;
mod error;
pub mod event;
pub mod invalidate;
pub mod key;
mod key_index;
mod preload;
pub mod reader;
mod recent_writes;
mod refresh;
mod script;
pub mod subject;
pub mod worker;
mod write;
pub mod writer;

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::evaluate::Parts;

use client::Client;
use invalidate::Invalidator;
use worker::Worker;

pub use cache_view::CacheView;
pub use cached_outcome::CachedOutcome;
pub use context_hash::context_hash;
pub use erase::{EraseError, erase};
pub use error::CacheError;
pub use preload::{Preloaded, Preloader};
pub use reader::{Miss, Read, Reader};
pub use subject::{Keys, Subject};

/// Timeout of one batch of commands.
const REDIS_TIMEOUT: Duration = Duration::from_secs(2);

/// The running warmer.
#[derive(Debug)]
pub struct Warmer {
    threads: Vec<JoinHandle<()>>,
}

impl Warmer {
    /// Starts the warmer with the Redis server at `url`. It runs until the shutdown token is cancelled, and uses
    /// `runtime` for its I/O.
    pub fn start(parts: &Parts, url: &str, runtime: &Handle) -> io::Result<Self> {
        let client = || Client::new(url, REDIS_TIMEOUT).map_err(io::Error::other);
        let worker = Worker::new(parts.clone(), runtime.clone(), client()?);
        let invalidator = Invalidator::new(parts.clone(), runtime.clone(), client()?);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        Ok(Self {
            threads: vec![
                thread("warm").spawn(move || worker.run())?,
                thread("warm-sweep").spawn(move || invalidator.run())?,
            ],
        })
    }

    /// Whether a thread has ended. The threads should only end after a shutdown.
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Waits for both threads to end. `false` if one panicked.
    pub fn join(self) -> bool {
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        ended.iter().all(Result::is_ok)
    }
}
