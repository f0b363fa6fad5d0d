//! feed
pub mod usage;
