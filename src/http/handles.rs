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

/// The same, and a warning where `connections` need more.
pub fn raise_for(connections: usize) {
    if let Some(handles) = raise()
        && handles < connections as u64 + OTHERS
    {
        tracing::warn!(handles, connections, "fewer file handles (ulimit -n) than connections are allowed");
    }
}
