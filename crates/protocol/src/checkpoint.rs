//! Checkpoint of the audit trail: the ends of its hash chains at a point in time. It is written to Kafka so
//! that someone with access to the database alone cannot alter it.

use hex::FromHexError;
use serde::{Deserialize, Serialize};

/// The only value of `event_type`.
pub const EVENT_TYPE: &str = "AUDIT_CHECKPOINT";

/// One checkpoint in the form it has in the topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub event_type: String,
    /// Instance that wrote the checkpoint.
    pub instance: String,
    /// Creation time (RFC 3339, UTC).
    pub created_at: String,
    /// Chains of evaluations that have at least one block.
    pub chains: Vec<ChainEnd>,
    /// Chains of the change logs.
    pub changes: Vec<LogEnd>,
    /// HMAC-SHA256 over [`Checkpoint::signed_bytes`] in hex; `null` if the deployment has no key.
    pub signature: Option<String>,
}

/// End of the hash chain of one partition of an events topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainEnd {
    pub topic: String,
    pub partition: i32,
    /// Number of the last block.
    pub number: i64,
    /// Hash of the last block, in hex.
    pub hash: String,
}

/// End of the hash chain of a change log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEnd {
    /// Name of the change log's table.
    pub log: String,
    /// Number of the last link.
    pub number: i64,
    /// Hash of the last link, in hex.
    pub hash: String,
}

impl Checkpoint {
    /// Bytes that the signature covers: every other member, each preceded by its length.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        let mut add = |text: &str| {
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        };
        add(&self.event_type);
        add(&self.instance);
        add(&self.created_at);
        add(&self.chains.len().to_string());
        for end in &self.chains {
            add(&end.topic);
            add(&end.partition.to_string());
            add(&end.number.to_string());
            add(&end.hash);
        }
        for end in &self.changes {
            add(&end.log);
            add(&end.number.to_string());
            add(&end.hash);
        }
        bytes
    }

    /// The signature as bytes; `Ok(None)` if the checkpoint is not signed.
    pub fn signature_bytes(&self) -> Result<Option<Vec<u8>>, FromHexError> {
        self.signature.as_deref().map(hex::decode).transpose()
    }
}
