//! The provider that evaluates flags over HTTP.

mod breaker;
mod cache;
mod changes;
mod client;
mod error;
mod options;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use open_feature::provider::{ProviderMetadata, ProviderStatus, ResolutionDetails};
use open_feature::{EvaluationContext, EvaluationReason, EvaluationResult};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::answer::Asked;
use crate::provider::{Resolve, feature_provider};
use crate::question::body;

use client::Client;

pub use options::{HttpOptions, InvalidOption, Token};

/// An OpenFeature provider that calls a flagstream service. Clones share connections, cache and circuit breaker.
///
/// Its status is `Error` while the circuit is open, and `STALE` while it should follow changes but has no working
/// stream. Otherwise it is `Ready`.
#[derive(Debug, Clone)]
pub struct HttpProvider {
    client: Arc<Client>,
    listener: Arc<Listener>,
    metadata: Arc<ProviderMetadata>,
}

/// The task that follows changes. It ends when the last clone is dropped.
#[derive(Debug, Default)]
struct Listener {
    task: Mutex<Option<AbortHandle>>,
    following: watch::Sender<bool>,
}

impl HttpProvider {
    /// Creates a provider for the service at `url`. Following changes starts when OpenFeature initializes the provider.
    pub fn new(url: &str, options: HttpOptions) -> Result<Self, InvalidOption> {
        Ok(Self {
            client: Arc::new(Client::new(url, options)?),
            listener: Arc::default(),
            metadata: Arc::new(ProviderMetadata::new("flagstream")),
        })
    }

    /// Whether the stream of changes is currently working.
    pub fn is_following(&self) -> bool {
        *self.listener.following.borrow()
    }

    /// Invalidates cached answers of this environment (`""`: of every environment) whose version is lower than
    /// `version`. For applications that receive changes from the topic `feature-flag-updates`.
    pub fn invalidate(&self, version: u64, environment: &str) {
        self.client.cache.invalidate(version, environment);
    }
}

impl Listener {
    /// Starts the task, if it is not running yet.
    fn start(&self, client: &Arc<Client>) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.get_or_insert_with(|| {
            let listening = changes::follow(Arc::clone(client), self.following.clone());
            tokio::spawn(listening).abort_handle()
        });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl Resolve for HttpProvider {
    async fn resolve<T: Asked>(
        &self,
        flag: &str,
        context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<T>> {
        let environment = self.client.options.environment.as_deref();
        let evaluation = self.client.ask(body(flag, T::VALUE_TYPE, context, environment)?).await?;
        let was_kept = evaluation.was_kept;
        let mut details = evaluation.said.details()?;
        if was_kept {
            details.reason = Some(EvaluationReason::Cached);
        }
        Ok(details)
    }
}

feature_provider! { HttpProvider {
    async fn initialize(&mut self, _: &EvaluationContext) {
        if !self.client.options.follow_changes {
            return;
        }
        self.listener.start(&self.client);
        let mut following = self.listener.following.subscribe();
        // After a timeout the provider starts with the status `STALE`.
        let _ = timeout(self.client.options.attempt_timeout, following.wait_for(|following| *following)).await;
    }

    fn status(&self) -> ProviderStatus {
        if self.client.breaker.is_open() {
            return ProviderStatus::Error;
        }
        match self.client.options.follow_changes && !self.is_following() {
            true => ProviderStatus::STALE,
            false => ProviderStatus::Ready,
        }
    }

    fn metadata(&self) -> &ProviderMetadata {
        &self.metadata
    }
} }
