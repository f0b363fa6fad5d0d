//! The provider that evaluates flags in this process, from flags that are read from Kafka into memory.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use flagstream_store::embed::{Embedded, Freshness};
use flagstream_store::flag::Answer;
use flagstream_store::message::request::{Refusal, Request};
use open_feature::provider::{ProviderMetadata, ProviderStatus, ResolutionDetails};
use open_feature::{EvaluationContext, EvaluationError, EvaluationErrorCode, EvaluationResult};
use serde_json::Value;
use tokio::time::Instant;

use crate::answer::{Asked, Said, general};
use crate::provider::{Resolve, feature_provider};
use crate::question::body;

pub use flagstream_store::embed::StartError;

/// How long `initialize` waits for the flags. Registering a provider blocks all evaluations for that time.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// An OpenFeature provider that evaluates in this process. Clones share the flags; dropping the last one stops reading.
///
/// Its status is `NotReady` until all flags were read, and `STALE` while Kafka is unreachable, with the last known
/// flags.
#[derive(Debug, Clone)]
pub struct InProcessProvider {
    flags: Arc<Embedded>,
    metadata: Arc<ProviderMetadata>,
}

impl InProcessProvider {
    /// Starts reading the flags. Settings have the names of the service's environment variables, so
    /// `std::env::vars_os()` can be passed. These are used: `KAFKA_BOOTSTRAP_SERVERS`, `FLAGSTREAM_KAFKA__CLIENT__…`,
    /// `FLAGSTREAM_TOPICS__DEFINITIONS` and `…__OVERRIDES`, `UNLEASH_ENVIRONMENT`, `UNLEASH_APP_NAME`, and
    /// `FLAGSTREAM_STATE_DIR`, a folder of this process alone, whose snapshot allows a start without Kafka.
    pub fn start<N: Into<OsString>, V: Into<OsString>>(
        settings: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, StartError> {
        let settings = settings.into_iter().map(|(name, value)| (name.into(), value.into()));
        let metadata = Arc::new(ProviderMetadata::new("flagstream in-process"));
        Ok(Self { flags: Arc::new(Embedded::start(settings)?), metadata })
    }

    /// Waits until the flags are ready. `false` after `at_most`.
    pub async fn wait_until_ready(&self, at_most: Duration) -> bool {
        self.flags.wait_until_ready(Instant::now() + at_most).await
    }

    /// Stops reading and waits for its end. The flags that were read remain available.
    pub async fn close(&self) {
        let flags = Arc::clone(&self.flags);
        // Fails only if the runtime shuts down, which also stops reading.
        let _ = tokio::task::spawn_blocking(move || flags.stop()).await;
    }

    fn said(&self, body: &str) -> EvaluationResult<Said> {
        let request = Request::decode(body.as_bytes()).map_err(|refusal| refused(&refusal))?;
        let mut said = None;
        self.flags.answer(&request, |_, answer| said = Some(of(&answer)));
        said.ok_or_else(|| general("the question names no flag".to_owned()))?
    }
}

impl Resolve for InProcessProvider {
    async fn resolve<T: Asked>(
        &self,
        flag: &str,
        context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<T>> {
        self.said(&body(flag, T::VALUE_TYPE, context, None)?)?.details()
    }
}

feature_provider! { InProcessProvider {
    async fn initialize(&mut self, _: &EvaluationContext) {
        self.wait_until_ready(READY_TIMEOUT).await;
    }

    fn status(&self) -> ProviderStatus {
        match self.flags.freshness() {
            Freshness::NotReady => ProviderStatus::NotReady,
            Freshness::Current => ProviderStatus::Ready,
            Freshness::Stale => ProviderStatus::STALE,
        }
    }

    fn metadata(&self) -> &ProviderMetadata {
        &self.metadata
    }
} }

fn of(answer: &Answer<'_>) -> EvaluationResult<Said> {
    let mut value = Vec::new();
    answer.value.write_json(&mut value);
    let value: Value = serde_json::from_slice(&value).map_err(|error| general(error.to_string()))?;
    Ok(Said {
        value,
        enabled: answer.enabled,
        variant: answer.variant.map(str::to_owned),
        reason: answer.reason.as_str().to_owned(),
        error_code: answer.error_code.map(|code| code.as_str().to_owned()),
        error_message: answer.error_message.as_deref().map(str::to_owned),
        flag_version: answer.flag_version,
    })
}

fn refused(refusal: &Refusal) -> EvaluationError {
    if refusal.field.split('.').next() == Some("context") {
        return EvaluationError { code: EvaluationErrorCode::InvalidContext, message: Some(refusal.text()) };
    }
    general(refusal.text())
}
