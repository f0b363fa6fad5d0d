//! Connects a producer of events on its own thread, so that a slow connection does not block the worker.
//!
//! A connection with TLS and SASL takes about ten round trips, and much longer while Kafka is unreachable. The client
//! is kept over failed attempts, because librdkafka continues to connect in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use rdkafka::error::KafkaError;

use crate::config::Config;
use crate::log_limit::LogLimit;

use super::event_producer::EventProducer;

/// Timeout of one metadata request for the events topic, including the connection.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay between two metadata requests.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// A producer that is being connected. Dropping it ends the attempt.
#[derive(Debug)]
pub struct Opening {
    opened: Receiver<Result<EventProducer, KafkaError>>,
    cancelled: Arc<AtomicBool>,
}

impl Opening {
    /// Starts to connect. An error means that the thread could not be started.
    pub fn start(config: &Arc<Config>) -> std::io::Result<Self> {
        let (sender, opened) = sync_channel(1);
        let cancelled = Arc::new(AtomicBool::new(false));
        let (config, is_cancelled) = (Arc::clone(config), Arc::clone(&cancelled));
        std::thread::Builder::new()
            .name("publish-open".to_owned())
            .spawn(move || open(&config, &sender, &is_cancelled))?;
        Ok(Self { opened, cancelled })
    }

    /// Returns the connected producer, or the error if it cannot be created. `None` while it is still connecting.
    pub fn poll(&self) -> Option<Result<EventProducer, KafkaError>> {
        match self.opened.try_recv() {
            Ok(opened) => Some(opened),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(KafkaError::Canceled)),
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

fn open(config: &Config, opened: &SyncSender<Result<EventProducer, KafkaError>>, cancelled: &AtomicBool) {
    static LIMIT: LogLimit = LogLimit::new();
    let mut event_producer = match EventProducer::create(config) {
        Ok(event_producer) => event_producer,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    while !cancelled.load(Ordering::Relaxed) {
        match event_producer.connect(&config.topics.events, METADATA_TIMEOUT) {
            Ok(()) => {
                // The receiver is gone if the worker has ended.
                let _ = opened.send(Ok(event_producer));
                return;
            }
            Err(error) => {
                if let Some(suppressed) = LIMIT.admit() {
                    let topic = config.topics.events.as_str();
                    tracing::error!(%error, topic, suppressed, "cannot read the metadata of the events topic; events \
                        are not sent yet; retrying");
                }
                std::thread::park_timeout(RETRY_DELAY);
            }
        }
    }
}
