//! File handles: each connection is one, and many systems give a process 1,024 unless it asks for more.

/// For files, databases and Kafka beside the connections.
const OTHERS: u64 = 1_024;

/// Asks for as many as the system allows. How many there are then.
#[cfg(unix)]
pub fn raise() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it is given a place to write to, and later one to read from.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if !known {
        return None;
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
    Some(if raised { limit.rlim_max } else { before })
}

#[cfg(not(unix))]
pub fn raise() -> Option<u64> {
    None
}

/// Asks for as many handles as the system allows, and returns how many of `connections` they are enough for. A warning says
/// so if that is fewer. What remains is for files, databases and Kafka: without it the process could neither reconnect nor
/// answer about its health.
#[must_use]
pub fn raise_for(connections: usize) -> usize {
    let Some(handles) = raise() else { return connections };
    let allowed = share(handles, connections);
    if allowed < connections {
        tracing::warn!(
            handles,
            allowed,
            connections,
            "the limit of file handles (ulimit -n) allows fewer connections"
        );
    }
    allowed
}

/// The part of `handles` that connections may take.
fn share(handles: u64, connections: usize) -> usize {
    // Of a small number most are for the rest.
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
