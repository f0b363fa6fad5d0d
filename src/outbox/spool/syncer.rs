//! Syncs the spool's segments to disk on its own thread, because a busy disk takes seconds for it and events must not
//! wait meanwhile.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Upper bound of queued segments; a further one blocks the caller.
const WAITING_SEGMENTS_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Syncer {
    segments: SyncSender<File>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    inner: Mutex<Inner>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    under_way: usize,
    /// Last error, until it is returned to a caller.
    error: Option<io::Error>,
}

impl Syncer {
    pub(super) fn start() -> io::Result<Self> {
        let (segments, waiting) = sync_channel(WAITING_SEGMENTS_MAX);
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::Builder::new().name("spool-sync".to_owned()).spawn(move || run(&waiting, &shared))?;
        Ok(Self { segments, state })
    }

    /// Queues a sync of the segment's current contents. Returns the error of an earlier sync, if there was one.
    pub(super) fn sync(&self, segment: &File) -> io::Result<()> {
        let segment = segment.try_clone()?;
        self.state.lock().under_way += 1;
        if self.segments.send(segment).is_err() {
            self.state.lock().under_way -= 1;
            return Err(io::Error::other("the sync thread of the spool has ended"));
        }
        self.told()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().under_way == 0
    }

    /// Returns the error of a sync since the last call, if there was one.
    pub(super) fn told(&self) -> io::Result<()> {
        self.state.lock().error.take().map_or(Ok(()), Err)
    }

    /// Waits until all queued segments are synced.
    pub(super) fn wait(&self) -> io::Result<()> {
        let mut inner = self.state.lock();
        while inner.under_way > 0 {
            inner = self.state.idle.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.error.take().map_or(Ok(()), Err)
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(waiting: &Receiver<File>, state: &State) {
    for segment in waiting {
        let synced = segment.sync_data();
        let mut inner = state.lock();
        inner.under_way -= 1;
        if let Err(error) = synced {
            inner.error = Some(error);
        }
        state.idle.notify_all();
    }
}
