//! Fixed-size keys that replace user ids and event ids in the tables of experiments.

use sha2::{Digest, Sha256};

/// First 16 bytes of the SHA-256 of a text.
pub type Key = [u8; 16];

pub fn key(text: &str) -> Key {
    let mut key = Key::default();
    let digest = Sha256::digest(text.as_bytes());
    key.iter_mut().zip(digest).for_each(|(byte, digit)| *byte = digit);
    key
}

/// Key of a text that says how a variant was chosen: the first 8 bytes of its SHA-256.
pub fn assignment_key(text: &str) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = key(text);
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}
