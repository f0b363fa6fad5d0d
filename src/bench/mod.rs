//! The load tool for docs/benchmarks.md. It sends real requests through the real pipeline on a real Kafka, and runs a
//! baseline in the same run, so that the result is a ratio that does not depend on the machine.

pub mod baseline;
pub mod edge;
mod gate;
pub mod http;
pub mod latency;
pub mod listeners;
pub mod load;
pub mod outage;
pub mod redis_cache;
pub mod replay;
pub mod setup;
pub mod sink;
pub mod stream;
