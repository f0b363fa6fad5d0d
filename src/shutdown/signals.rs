//! The signals that end the service: SIGTERM, SIGINT (Ctrl-C) and SIGHUP.
//!
//! ```text
//!  install ─► starting ── signal ─► the process ends at once, exit code 0
//!                │
//!             started ─── signal ─► orderly stop ── SIGTERM or SIGINT, a second later or more ─► it ends at once, exit code 1
//! ```
//!
//! The handlers are installed before anything else. Without handlers a process with id 1, as in a container, would
//! ignore these signals.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::Shutdown;

/// Receives the signals that end the process. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct StopSignals {
    /// Whether the start is complete, so that a signal starts an orderly stop.
    started: Arc<AtomicBool>,
    stop: Shutdown,
}

impl StopSignals {
    /// Installs the handlers. Must be called within the runtime, whose other threads receive the signals even while the
    /// start blocks this one.
    pub fn install() -> anyhow::Result<Self> {
        let streams = Streams::open().context("the handlers of SIGTERM, SIGINT and SIGHUP")?;
        let signals = Self::default();
        tokio::spawn(signals.clone().receive(streams));
        Ok(signals)
    }

    /// Completes the start: from now on the first signal starts an orderly stop, see [`StopSignals::received`].
    pub fn started(&self) {
        self.started.store(true, Ordering::SeqCst);
    }

    /// Waits until a signal requests an orderly stop. Returns immediately if one already did.
    pub async fn received(&self) {
        self.stop.cancelled().await;
    }

    async fn receive(self, mut streams: Streams) {
        let signal = streams.next().await;
        if !self.started.load(Ordering::SeqCst) {
            // No work was accepted yet, so there is nothing to finish, and the start may wait for an unreachable
            // service.
            tracing::info!(signal, "stopped during the start");
            std::process::exit(0);
        }
        tracing::info!(signal, "stopping");
        self.stop.cancel();
        let asked = Instant::now();
        let signal = loop {
            let signal = streams.next().await;
            // Neither of these is a second request: a closing terminal sends SIGHUP, and its shell may send another
            // one; `timeout` and supervisors signal both the process and its group.
            if signal != HANGUP && asked.elapsed() > REPEATED_SIGNAL_TIME {
                break signal;
            }
        };
        // Not limited: the process ends.
        tracing::warn!(signal, "stopped at once");
        std::process::exit(1);
    }
}

const HANGUP: &str = "SIGHUP";

/// A signal within this time after the first one counts as the same request.
const REPEATED_SIGNAL_TIME: Duration = Duration::from_secs(1);

#[cfg(unix)]
struct Streams {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// `None` if the process was started with SIGHUP ignored, as by `nohup`.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Streams {
    fn open() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = if is_ignored(libc::SIGHUP) { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup,
        })
    }

    async fn next(&mut self) -> &'static str {
        let Self { terminate, interrupt, hangup } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hung_up => HANGUP,
        }
    }
}

/// Whether the process was started with `signal` ignored.
#[cfg(unix)]
#[allow(unsafe_code)] // no crate has a safe call that reads the action of a signal
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the present one, to a place that is large enough for it.
    let known = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } == 0;
    // SAFETY: all zeroes are a valid `sigaction`, and the call may have written another one over them.
    let action = unsafe { action.assume_init() };
    known && action.sa_sigaction == libc::SIG_IGN
}

#[cfg(not(unix))]
struct Streams;

#[cfg(not(unix))]
impl Streams {
    fn open() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        // If Ctrl-C cannot be received, this waits forever.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}
