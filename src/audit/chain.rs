//! Hash chain that reveals changes of the audit trail.
//!
//! ```text
//!  rows of a batch ──► digest of each row ─┐ sorted
//!                                          ▼
//!  block n-1 ── hash ───────────────► hash of block n ──► audit_blocks, audit_chains (head)
//!                                                               │ every few minutes
//!                                                               ▼
//!                                       feature-flag-audit-checkpoints in Kafka, signed
//! ```
//!
//! There is one chain per partition of the events topic. A batch adds a block for each partition with evaluations, in
//! the transaction that writes the rows; each row contains its block's number. If a row is changed, added or removed
//! afterwards, the rows no longer add up to their block's hash; a changed block no longer matches the next one; and a
//! chain that is rewritten as a whole no longer contains the hashes of the checkpoints. `flagstream audit verify`
//! checks all three.

pub mod json;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};

use super::evaluation::{Evaluation, Source};

/// SHA-256 digest, or HMAC-SHA-256 if the deployment has a key.
pub type Digest = [u8; 32];

/// Previous hash of a chain's first block.
pub const GENESIS: Digest = [0; 32];

/// Bits of a row's `audit_block` that hold the block's number; the chain's number is above them.
const NUMBER_BITS: u32 = 40;

/// Computes digests, keyed if the deployment has a key. Without a key, anyone who can write to the database can also
/// compute a consistent chain; then only the checkpoints in Kafka reveal a change.
#[derive(Clone, Default)]
pub struct Hasher(Option<Hmac<Sha256>>);

/// End of a chain, which the next block follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of the chain in `audit_chains`.
    pub chain: i64,
    /// Number of the last block; 0 if there is none yet.
    pub number: i64,
    /// Hash of the last block, or [`GENESIS`].
    pub hash: Digest,
}

/// Contents of a block, without its position in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub topic: String,
    pub partition: i32,
    /// First offset of the events topic that the batch covers, and the offset behind the last one.
    pub from_offset: i64,
    pub to_offset: i64,
    pub rows: i64,
    /// Earliest and latest `evaluated_at` of its rows, in microseconds since 1970.
    pub first_evaluated_at: i64,
    pub last_evaluated_at: i64,
    /// Digest over the sorted digests of its rows.
    pub rows_digest: Digest,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher").field("keyed", &self.0.is_some()).finish()
    }
}

impl Head {
    /// The `audit_block` of rows of the next block.
    pub fn next_block(&self) -> i64 {
        (self.chain << NUMBER_BITS) | (self.number + 1)
    }
}

/// Splits a row's `audit_block` into the chain and the block's number.
pub fn place(audit_block: i64) -> (i64, i64) {
    (audit_block >> NUMBER_BITS, audit_block & ((1 << NUMBER_BITS) - 1))
}

impl Hasher {
    /// Creates a hasher. With `key`, only holders of the key can compute digests.
    pub fn new(key: Option<&[u8]>) -> Self {
        // HMAC takes keys of any length.
        Self(key.and_then(|key| Hmac::new_from_slice(key).ok()))
    }

    /// Whether the hasher has a key.
    pub fn is_keyed(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the digest of `bytes`.
    pub fn digest(&self, bytes: &[u8]) -> Digest {
        match &self.0 {
            None => Sha256::digest(bytes).into(),
            Some(keyed) => {
                let mut keyed = keyed.clone();
                keyed.update(bytes);
                keyed.finalize().into_bytes().into()
            }
        }
    }

    /// Returns the digest of a row, using `buffer` as scratch memory. The evaluation's duration is in no column and is
    /// not covered.
    pub fn row(&self, evaluation: &Evaluation<'_>, buffer: &mut Vec<u8>) -> Digest {
        buffer.clear();
        encode(evaluation, buffer);
        self.digest(buffer)
    }

    /// Returns the digest of a block's rows, independent of their order; sorts `digests`.
    pub fn rows(&self, digests: &mut [Digest]) -> Digest {
        digests.sort_unstable();
        self.digest(digests.as_flattened())
    }

    /// Returns the hash of the block with this number that follows `previous`.
    pub fn block(&self, previous: &Digest, number: i64, block: &Block) -> Digest {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(previous);
        json::sized(block.topic.as_bytes(), &mut bytes);
        bytes.extend_from_slice(&block.partition.to_be_bytes());
        let numbers = [
            number,
            block.from_offset,
            block.to_offset,
            block.rows,
            block.first_evaluated_at,
            block.last_evaluated_at,
        ];
        numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_be_bytes()));
        bytes.extend_from_slice(&block.rows_digest);
        self.digest(&bytes)
    }
}

/// Appends every column of a row except its id. Each has a tag byte, a fixed length or a length prefix, so that the
/// encoding is unambiguous.
fn encode(evaluation: &Evaluation<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(evaluation.event_id.as_bytes());
    text(Some(&evaluation.flag_name), out);
    text(Some(&evaluation.environment), out);
    text(Some(&evaluation.reason), out);
    text(evaluation.request_id.as_deref(), out);
    text(evaluation.user_id.as_deref(), out);
    text(evaluation.session_id.as_deref(), out);
    text(evaluation.variant.as_deref(), out);
    text(evaluation.error_code.as_deref(), out);
    text(evaluation.error_message.as_deref(), out);
    text(evaluation.value_type.as_deref(), out);
    out.push(match evaluation.result {
        None => b'-',
        Some(false) => b'0',
        Some(true) => b'1',
    });
    out.extend_from_slice(&[u8::from(evaluation.enabled), u8::from(evaluation.amended)]);
    out.extend_from_slice(&evaluation.evaluated_at.to_be_bytes());
    number(evaluation.flag_version, out);
    number(evaluation.flags_version, out);
    json::encode(&evaluation.context, out);
    optional(evaluation.evaluated_value.as_deref(), out);
    optional(evaluation.default_value.as_deref(), out);
    match &evaluation.source {
        Source::Kafka { topic, partition, offset, index, topic_id: _, tap: _ } => {
            out.push(b'k');
            json::sized(topic.as_bytes(), out);
            out.extend_from_slice(&partition.to_be_bytes());
            out.extend_from_slice(&offset.to_be_bytes());
            out.extend_from_slice(&index.to_be_bytes());
        }
        Source::Api(api) => {
            out.push(b'a');
            json::sized(api.as_bytes(), out);
        }
        Source::Unknown => out.push(b'-'),
    }
    // Last and only if present, so that the digests of rows without attributes stay the same.
    if let Some(attributes) = &evaluation.attributes {
        out.push(b't');
        json::encode(attributes, out);
    }
}

fn text(text: Option<&str>, out: &mut Vec<u8>) {
    match text {
        None => out.push(b'-'),
        Some(text) => {
            out.push(b'+');
            json::sized(text.as_bytes(), out);
        }
    }
}

fn optional(json: Option<&str>, out: &mut Vec<u8>) {
    match json {
        None => out.push(b'-'),
        Some(text) => {
            out.push(b'+');
            json::encode(text, out);
        }
    }
}

fn number(number: Option<i64>, out: &mut Vec<u8>) {
    match number {
        None => out.push(b'-'),
        Some(number) => {
            out.push(b'+');
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}
