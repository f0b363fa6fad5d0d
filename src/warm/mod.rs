//! The warm view in Redis: outcomes where any service can read them, never stale for readers of ours.
//!
//! ```text
//!  feature-flag-events ──► worker: who asked? ─► evaluate ─► writer ──► feature_flag:eval:…, ff_eval:…
//!                                                              │           ▲
//!                                                              └─ lists ─► chunks of each flag's keys
//!                                                                          │
//!  feature-flag-updates ─► sweep: 1 raise the flag's floor ─► 2 renew ◄────┘
//!
//!  reader ◄── value and floor: is it at least as new as what is in force?
//! ```
//!
//! A value carries the version of the definitions that it was computed from ([`Warm`]). Three things keep it from
//! being stale: Redis itself refuses an older value over a newer one (`script`); readers compare with the flags in
//! force and with the flag's floor, which costs the same for one key and for a million ([`reader`]); and a change
//! finds all raw keys of its flag in lists, without a scan (`writer`, `index`, `sweep`).
//!
//! Redis in trouble costs the view, and nobody else: the warmer has its own consumers, holds one batch, and waits.

pub mod client;
mod clients;
mod context_hash;
pub mod edge;
mod erase;
pub(crate) mod event;
mod index;
pub mod key;
mod put;
pub mod reader;
mod renew;
mod repeats;
mod script;
pub(crate) mod subject;
pub(crate) mod sweep;
mod trouble;
mod value;
mod view;
mod way;
pub(crate) mod worker;
pub(crate) mod writer;

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::evaluate::Parts;

use client::Client;
use sweep::Sweeper;
use worker::Worker;

pub use context_hash::context_hash;
pub use erase::{EraseError, erase};
pub use reader::{Miss, Read, Reader};
pub use subject::{Keys, Subject};
pub use trouble::Trouble;
pub use value::Warm;
pub use view::View;

/// How long Redis may take for a batch.
const PATIENCE: Duration = Duration::from_secs(2);

/// The running warmer.
#[derive(Debug)]
pub struct Warmer {
    threads: Vec<JoinHandle<()>>,
}

impl Warmer {
    /// Starts the warmer, on `url`; it runs until the shutdown token is cancelled. Its I/O is done by `runtime`.
    pub fn start(parts: &Parts, url: &str, runtime: &Handle) -> io::Result<Self> {
        let client = || Client::new(url, PATIENCE).map_err(io::Error::other);
        let worker = Worker::new(parts.clone(), runtime.clone(), client()?);
        let sweeper = Sweeper::new(parts.clone(), runtime.clone(), client()?);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        Ok(Self {
            threads: vec![
                thread("warm").spawn(move || worker.run())?,
                thread("warm-sweep").spawn(move || sweeper.run())?,
            ],
        })
    }

    /// Whether a thread ended although nobody asked it to.
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Waits for both to end. `false` if one panicked.
    pub fn join(self) -> bool {
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        ended.iter().all(Result::is_ok)
    }
}
