//! Limit of open file descriptors. Every connection needs one, and many systems allow a process 1,024 unless it raises
//! the limit.

/// File descriptors reserved for files, databases and Kafka.
const OTHERS: u64 = 1_024;

/// Raises the soft limit of file descriptors to the hard limit. Returns the limit that is then in effect; `None` if it
/// is unknown.
#[cfg(unix)]
pub fn raise() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // `None` in a limit: there is none.
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    Some(if raised { maximum } else { current }.unwrap_or(u64::MAX))
}

#[cfg(not(unix))]
pub fn raise() -> Option<u64> {
    None
}

/// Raises the file descriptor limit, and returns how many of `connections` it allows. Logs a warning if that is fewer.
/// The remainder is reserved for files, databases and Kafka: without it the process could neither reconnect nor report
/// its health.
#[must_use]
pub fn raise_for(connections: usize) -> usize {
    let Some(handles) = raise() else { return connections };
    let allowed = share(handles, connections);
    if allowed < connections {
        // Not limited: once at the start.
        tracing::warn!(
            handles,
            allowed,
            connections,
            "the file descriptor limit (ulimit -n) allows fewer connections than configured: raise it"
        );
    }
    allowed
}

/// Number of `handles` that connections may use.
fn share(handles: u64, connections: usize) -> usize {
    // With a low limit, three quarters are reserved.
    let others = OTHERS.min(handles / 4 * 3);
    connections.min(usize::try_from(handles - others).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_handles_to_the_rest() {
        for (handles, connections) in
            [(256, 64), (1_024, 256), (4_096, 3_072), (1 << 20, 10_000), (u64::MAX, 10_000), (0, 0)]
        {
            assert_eq!(share(handles, 10_000), connections, "{handles} handles");
        }
    }
}
