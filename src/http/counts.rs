//! Counts evaluations without lock contention: each thread uses its own shard, and the shards are flushed regularly.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::evaluate::tally::Tally;
use crate::feed::Usage;
use crate::message::event::SDK_API;
use crate::metrics::Metrics;

use super::unleash::Unrecorded;

/// Number of shards. Threads beyond this number share them.
const PLACES: usize = 16;

/// API through which an evaluation was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Rest,
    Ofrep,
    Edge,
    /// SDKs of Unleash.
    Unleash,
}

impl Path {
    const ALL: [Self; 4] = [Self::Rest, Self::Ofrep, Self::Edge, Self::Unleash];

    /// Name in events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Ofrep => "ofrep",
            Self::Edge => "edge",
            Self::Unleash => SDK_API,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts([Mutex<[Tally; Path::ALL.len()]>; PLACES]);

impl Counts {
    /// Runs `count` with the current thread's counters of `path`.
    pub(super) fn count<T>(&self, path: Path, count: impl FnOnce(&mut Tally) -> T) -> T {
        let Some(place) = self.0.get(place()) else {
            return count(&mut Tally::default());
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let [rest, ofrep, edge, unleash] = &mut *place;
        count(match path {
            Path::Rest => rest,
            Path::Ofrep => ofrep,
            Path::Edge => edge,
            Path::Unleash => unleash,
        })
    }

    pub(super) fn flush(&self, metrics: &Metrics, usage: &Usage) {
        for place in &self.0 {
            let taken = std::mem::take(&mut *place.lock().unwrap_or_else(PoisonError::into_inner));
            for (path, mut tally) in Path::ALL.into_iter().zip(taken) {
                tally.count(path.as_str(), metrics, usage);
                for (reason, count) in Unrecorded::ALL.into_iter().zip(tally.take_unrecorded()) {
                    if count > 0 {
                        metrics.unleash_api.unrecorded.get_or_create(&reason.labels()).inc_by(count);
                    }
                }
            }
        }
    }
}

/// Index of the current thread's shard.
fn place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
    }
    PLACE.with(|place| {
        let index = place.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed) % PLACES);
        place.set(Some(index));
        index
    })
}
