//! Writes rows to the topic of a table, for the HTTP API and for the erasure of users.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use tokio::time::Instant;

use crate::config::{AttributeTable, Config};
use crate::kafka::sender::Sender;

use super::Table;

/// Time that a write waits until its row is in the table of this instance.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// Writes rows. A record may have been written although an error is returned.
#[derive(Debug)]
pub struct AttributeWriter {
    sender: Sender,
}

/// Position of a written row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub partition: i32,
    pub offset: i64,
    /// Whether the row is in the table of this instance.
    pub is_applied: bool,
}

/// Reason why a row was not written.
#[derive(Debug, thiserror::Error)]
#[error("topic {topic}: {error}")]
pub struct WriteError {
    pub topic: String,
    pub error: KafkaError,
}

impl AttributeWriter {
    pub fn new(config: &Config) -> Self {
        Self { sender: Sender::new(config.kafka.clone(), "attributes") }
    }

    /// Writes a row, or removes it with `None`, and waits a short time until it is in the table.
    pub async fn write(
        &self,
        table: &Arc<Table>,
        key: &str,
        row: Option<&str>,
    ) -> Result<Placed, WriteError> {
        let (partition, offset) = self.put(table.topic(), key, row).await?;
        let is_applied = table.wait_for(partition, offset, Instant::now() + APPLY_TIMEOUT).await;
        Ok(Placed { partition, offset, is_applied })
    }

    /// Removes the row of a key from a table, without waiting for any instance.
    pub async fn erase(&self, table: &AttributeTable, key: &str) -> Result<(), WriteError> {
        self.put(&table.topic, key, None).await.map(drop)
    }

    async fn put(&self, topic: &str, key: &str, row: Option<&str>) -> Result<(i32, i64), WriteError> {
        let sent = self.sender.put(topic, key, row.map(str::as_bytes)).await;
        sent.map_err(|error| WriteError { topic: topic.to_owned(), error })
    }
}
