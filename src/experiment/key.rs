//! Fixed-size keys that replace user ids and event ids in the tables of experiments.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// First 16 bytes of the SHA-256 of a text.
pub type Key = [u8; 16];

pub fn key(text: &str) -> Key {
    let mut key = Key::default();
    let digest = Sha256::digest(text.as_bytes());
    key.iter_mut().zip(digest).for_each(|(byte, digit)| *byte = digit);
    key
}

/// Id of the event of an exposure, which any writer of the same exposure computes.
pub fn exposure_event_id(environment: &str, experiment: &str, user: Key, flag_version: i64) -> Uuid {
    let mut digest = Sha256::new();
    // The lengths keep different names from having the same bytes together.
    for text in [environment, experiment] {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    digest.update(user);
    digest.update(flag_version.to_be_bytes());
    let mut bytes = Key::default();
    bytes.iter_mut().zip(digest.finalize()).for_each(|(byte, digit)| *byte = digit);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Key of a text that says how a variant was chosen: the first 8 bytes of its SHA-256.
pub fn assignment_key(text: &str) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = key(text);
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}
