//! Builds every part once; owns the order of start and stop.
