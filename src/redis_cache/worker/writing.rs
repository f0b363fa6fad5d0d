//! Writes a batch to Redis in the background.

use std::sync::Arc;
use std::time::Instant;

use rdkafka::error::KafkaError;
use tokio::task::JoinHandle;

use crate::kafka::backoff::Backoff;
use crate::kafka::consumer::BatchConsumer;
use crate::redis_cache::clients::Progress;
use crate::redis_cache::error::CacheError;
use crate::redis_cache::subject::Entry;
use crate::redis_cache::writer::Written;
use crate::shutdown::pause;

use super::{Batch, MAX_BACKOFF, MIN_BACKOFF, Worker};

/// Batch that is being written while the next one is read and evaluated.
pub(super) struct Writing {
    entries: Arc<Vec<Entry>>,
    read: Vec<(i32, i64)>,
    begun: Instant,
    task: JoinHandle<Result<Written, CacheError>>,
}

impl Worker {
    pub(super) fn begin(&self, batch: Batch) -> Writing {
        let entries = Arc::new(batch.entries);
        Writing { task: self.write(&entries), entries, read: batch.read, begun: Instant::now() }
    }

    fn write(&self, entries: &Arc<Vec<Entry>>) -> JoinHandle<Result<Written, CacheError>> {
        let (writer, entries) = (Arc::clone(&self.writer), Arc::clone(entries));
        self.runtime.spawn(async move { writer.lock().await.write(&entries).await })
    }

    /// Waits until a batch is written. If Redis fails, the write is retried for up to the lifetime of a value.
    pub(super) fn finish(
        &mut self,
        consumer: &BatchConsumer,
        mut writing: Writing,
        progress: &mut Progress,
    ) -> Result<(), KafkaError> {
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        loop {
            let ended = self.runtime.block_on(&mut writing.task);
            let cache_error =
                match ended.unwrap_or_else(|error| Err(CacheError::Unreachable(error.to_string()))) {
                    Ok(written) => {
                        self.parts.health.up();
                        self.written(&writing.entries, written);
                        break;
                    }
                    Err(cache_error) => cache_error,
                };
            self.parts.health.degraded(&cache_error);
            if writing.begun.elapsed() > self.ttl {
                let count = u64::try_from(writing.entries.len()).unwrap_or(u64::MAX);
                self.parts.metrics.drop_counted("warm_write", cache_error.reason(), count);
                break;
            }
            pause(backoff.delay(), &self.parts.shutdown);
            if self.parts.shutdown.is_cancelled() {
                return Ok(());
            }
            // Serving the consumer keeps its group membership, however long Redis fails.
            consumer.serve()?;
            writing.task = self.write(&writing.entries);
        }
        writing.read.into_iter().for_each(|(partition, offset)| progress.done(partition, offset));
        Ok(())
    }
}
