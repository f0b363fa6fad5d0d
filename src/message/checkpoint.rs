//! A checkpoint of the audit trail: where its hash chains ended at a moment, written to Kafka, out of the database's reach.

use hex::FromHexError;
use serde::{Deserialize, Serialize};

/// The only value of `event_type`.
pub const EVENT_TYPE: &str = "AUDIT_CHECKPOINT";

/// One checkpoint, as it stands in the topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub event_type: String,
    /// The instance that wrote it.
    pub instance: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// The chains of evaluations that have a block.
    pub chains: Vec<ChainEnd>,
    /// The chains of the change logs.
    pub changes: Vec<LogEnd>,
    /// HMAC-SHA256 over [`Checkpoint::signed_bytes`] in hex; `null` if the deployment has no key.
    pub signature: Option<String>,
}

/// Where the chain of one partition of an events topic ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainEnd {
    pub topic: String,
    pub partition: i32,
    /// Number of the last block.
    pub number: i64,
    /// Its hash, in hex.
    pub hash: String,
}

/// Where the chain of a change log ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEnd {
    /// The name of its table.
    pub log: String,
    /// Number of the last link.
    pub number: i64,
    /// Its hash, in hex.
    pub hash: String,
}

impl Checkpoint {
    /// What the signature covers: every other member, each behind its length.
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

    /// The signature's bytes. `Ok(None)`: there is none.
    pub fn signature_bytes(&self) -> Result<Option<Vec<u8>>, FromHexError> {
        self.signature.as_deref().map(hex::decode).transpose()
    }
}
