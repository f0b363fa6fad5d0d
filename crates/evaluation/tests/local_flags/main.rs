//! Local flags against a naive interpreter and the language-independent vectors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod reference;
mod vectors;
