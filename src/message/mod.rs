//! What crosses a topic, in both directions.

pub mod change;
pub mod definition;
