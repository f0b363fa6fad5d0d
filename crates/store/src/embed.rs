//! Evaluates flags inside another program, with the service's store and evaluation core, but without the service.
//!
//! [`Embedded`] reads the topics of definitions and kill switches, follows them, and answers from memory. Evaluations
//! are not reported anywhere: there is no event, no row in the audit trail, and no usage in Unleash.

pub mod settings;

use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{SecondsFormat, Utc};
use tokio::time::Instant;

use crate::Shutdown;
use crate::flag::{Answer, Lookup, Moment, answer};
use crate::message::request::{Ask, Request};
use crate::metrics::StoreMetrics;
use crate::{Expected, Reader, ReaderConfig, Store, StoreStatus};

pub use settings::{EmbeddedConfig, SettingsError};

/// Reason why reading the flags cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] SettingsError),
    #[error("the thread that reads the flags cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// The state of the flags in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Some flags have not been read yet.
    NotReady,
    /// The flags equal those in Kafka.
    Current,
    /// The flags are as of the last contact with Kafka, or from the disk snapshot.
    Stale,
}

/// The flags of all environments, kept up to date from Kafka until this is dropped.
#[derive(Debug)]
pub struct Embedded {
    store: Arc<Store>,
    environment: String,
    app_name: String,
    hostname: String,
    shutdown: Shutdown,
    reader: Mutex<Option<Reader>>,
}

impl Embedded {
    /// Starts reading. The settings have the names and defaults of the service's. `FLAGSTREAM_STATE_DIR` must be a
    /// folder of this process alone; without it no snapshot is stored on disk for a start without Kafka.
    pub fn start(settings: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, StartError> {
        Self::start_with(EmbeddedConfig::read(settings)?)
    }

    /// Starts reading with a configuration that is built by the program.
    pub fn start_with(config: EmbeddedConfig) -> Result<Self, StartError> {
        let reading = ReaderConfig {
            kafka: config.kafka,
            definitions: config.definitions,
            overrides: config.overrides,
            environments: vec![config.environment.clone()],
            state_dir: config.state_dir,
            expected: Expected { sources: Vec::new(), start_without_source: config.start_without_source },
            topic_ids: None,
        };
        let (store, shutdown) = (Arc::new(Store::default()), Shutdown::new());
        let metrics = Arc::new(StoreMetrics::default());
        let reader = Reader::start(reading, Arc::clone(&store), metrics, shutdown.clone())?;
        Ok(Self {
            store,
            environment: config.environment,
            app_name: config.app_name,
            hostname: gethostname::gethostname().to_string_lossy().into_owned(),
            shutdown,
            reader: Mutex::new(Some(reader)),
        })
    }

    /// The environment of requests that name none.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    pub fn freshness(&self) -> Freshness {
        let status = self.status();
        match (status.ready, &status.follow_error) {
            (false, _) => Freshness::NotReady,
            (true, Some(_)) => Freshness::Stale,
            (true, None) if self.shutdown.is_cancelled() => Freshness::Stale,
            (true, None) => Freshness::Current,
        }
    }

    /// Details of the reader's state: readiness, source, and the current problem.
    pub fn status(&self) -> Arc<StoreStatus> {
        self.store.status()
    }

    /// Waits until the flags are ready. `false` if the deadline came first.
    pub async fn wait_until_ready(&self, deadline: Instant) -> bool {
        self.store.wait_until_ready(deadline).await
    }

    /// Evaluates all flags of a request as the service would, on one snapshot, and passes each answer to `take`.
    pub fn answer(&self, request: &Request<'_>, mut take: impl FnMut(&Ask<'_>, Answer<'_>)) {
        let snapshot = self.store.load();
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let moment = Moment { now: &now, hostname: &self.hostname, app_name: &self.app_name };
        let environment = request.environment.as_deref().unwrap_or(&self.environment);
        let flags = snapshot.environment(environment);
        for ask in request.asks.as_slice() {
            let lookup = match self.store.is_ready() {
                true => Lookup::evaluate(flags, environment, &ask.flag, &request.context, &moment),
                false => Lookup::NotReady("the flags are not loaded yet".into()),
            };
            take(ask, answer(&ask.flag, lookup, ask.value_type, ask.default.as_ref()));
        }
    }

    /// Stops reading and waits for its end. The flags remain as they are. Blocks.
    pub fn stop(&self) {
        self.shutdown.cancel();
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.join();
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // The caller may not be allowed to block, so this does not join the reader.
        self.shutdown.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(settings: &[(&str, &str)]) -> Result<Embedded, StartError> {
        let settings = settings.iter().map(|(name, value)| (name.into(), value.into()));
        Embedded::start(settings)
    }

    #[test]
    fn other_settings_are_left_alone_and_bad_ones_are_named() {
        let nobody = ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1");
        let embedded = start(&[nobody, ("DATABASE_URL", "mysql://"), ("UNLEASH_ENVIRONMENT", "e")]).unwrap();
        assert_eq!(embedded.freshness(), Freshness::NotReady);
        let request = Request::decode(br#"{"flag_name": "f", "value_type": "string"}"#).unwrap();
        let mut codes = Vec::new();
        embedded.answer(&request, |ask, answer| codes.push((ask.flag.to_string(), answer.error_code)));
        assert_eq!(codes, [("f".to_owned(), Some(crate::flag::ErrorCode::ProviderNotReady))]);
        embedded.stop();
        embedded.stop();

        let error = start(&[nobody, ("FLAGSTREAM_KAFKA__NO_SUCH", "1")]).unwrap_err().to_string();
        assert!(error.contains("FLAGSTREAM_KAFKA__NO_SUCH"), "{error}");
        let error = start(&[("KAFKA_BOOTSTRAP_SERVERS", "a b")]).unwrap_err().to_string();
        assert!(error.contains("KAFKA_BOOTSTRAP_SERVERS"), "{error}");
    }
}
