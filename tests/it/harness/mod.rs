//! Fixtures and helpers shared by all tests.

pub mod avro;
mod callers;
mod cluster;
mod command;
mod database;
mod dev;
mod flags;
mod http;
mod kafka;
mod ledger;
mod load;
mod openapi_validator;
mod pgbouncer;
pub mod programs;
mod proxy;
mod redis;
mod redis_server;
mod service;
mod skewed_clock;
mod stack;
mod strict_schema;
mod tcp_proxy;
mod topics;
mod unleash;

use std::time::{Duration, Instant};

pub use callers::Callers;
pub use cluster::{AUTHORIZER, Cluster, PROMPT, TRIPLE};
pub use command::{binary as command, flagstream, program};
pub use database::Database;
pub use dev::Dev;
pub use flags::{Flag, Flags};
pub use http::{Answer, HEALTH_TOKEN, Metrics, block_on, call, client, get, post, runtime};
pub use kafka::{Received, Sender, TopicReader};
pub use ledger::Ledger;
pub use load::Load;
pub use openapi_validator::OpenApiValidator;
pub use pgbouncer::PgBouncer;
pub use proxy::{Mood, Proxy};
pub use redis::Redis;
pub use redis_server::RedisServer;
pub use service::{Group, Service, free_port};
pub use skewed_clock::with_clock;
pub use stack::{Stack, is_long};
pub use tcp_proxy::{TcpProxy, Way};
pub use topics::Topics;
pub use unleash::{Admin, FlagSpec, rollout};

/// Longest wait for something that normally takes well under a second. The machine may be busy.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Looks until `found` has something, and fails with `what` when `limit` has passed.
pub fn wait_for<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Looks until `condition` holds, and fails with `what` when `limit` has passed.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || condition().then_some(()));
}

/// A folder of the test's own, removed at its end.
pub fn temporary_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("flagstream-it-").tempdir().unwrap()
}
