//! Stopping: one token for all parts, one deadline for their drain.

pub use tokio_util::sync::CancellationToken as Shutdown;
