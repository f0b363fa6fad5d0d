//! Sending of spans and log records with OTLP over HTTP. The queues are bounded, and what they drop is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use axum::body::Bytes;
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{
    BatchLogProcessor, LogBatch, LogExporter, LogProcessor, SdkLogRecord, SdkLoggerProvider,
};
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use tokio::runtime::Handle;

use super::sampling::Ids;
use crate::metrics::{Signal, TelemetryMetrics};

/// Timeout of one request, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Entries that may wait for each signal, unless the standard's variable says otherwise.
const QUEUE_ENTRIES: usize = 2_048;

/// Sends requests with the service's own HTTP client, on its runtime: the SDK's threads have none.
#[derive(Debug, Clone)]
pub(super) struct Client {
    client: reqwest::Client,
    runtime: Handle,
}

/// Counts the entries of one signal that wait, and refuses more than the limit.
#[derive(Debug, Clone)]
struct Queue {
    signal: Signal,
    waiting: Arc<AtomicUsize>,
    limit: usize,
    metrics: TelemetryMetrics,
}

/// An exporter or processor whose entries are counted.
#[derive(Debug)]
struct Counted<T> {
    inner: T,
    queue: Queue,
}

pub(super) fn client() -> anyhow::Result<Client> {
    let timeout = number("OTEL_EXPORTER_OTLP_TIMEOUT").map_or(TIMEOUT, Duration::from_millis);
    let mut client = reqwest::Client::builder().timeout(timeout);
    if let Some(path) = std::env::var_os("OTEL_EXPORTER_OTLP_CERTIFICATE").filter(|path| !path.is_empty()) {
        let failed = || format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {}", path.display());
        let certificate = std::fs::read(&path).with_context(failed)?;
        for certificate in reqwest::Certificate::from_pem_bundle(&certificate).with_context(failed)? {
            client = client.add_root_certificate(certificate);
        }
    }
    Ok(Client { client: client.build()?, runtime: Handle::current() })
}

/// Creates what sends spans. The queue follows the standard's variables.
pub(super) fn spans(
    client: Client,
    resource: Resource,
    sampler: Sampler,
    metrics: &TelemetryMetrics,
) -> anyhow::Result<SdkTracerProvider> {
    let queue = Queue::new(Signal::Spans, "OTEL_BSP_MAX_QUEUE_SIZE", metrics);
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_http_client(client)
        .build()?;
    let inner = BatchSpanProcessor::builder(Counted { inner: exporter, queue: queue.clone() }).build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(sampler)
        .with_id_generator(Ids::default())
        .with_span_processor(Counted { inner, queue })
        .build())
}

/// Creates what sends log records.
pub(super) fn logs(
    client: Client,
    resource: Resource,
    metrics: &TelemetryMetrics,
) -> anyhow::Result<SdkLoggerProvider> {
    let queue = Queue::new(Signal::Logs, "OTEL_BLRP_MAX_QUEUE_SIZE", metrics);
    let exporter = opentelemetry_otlp::LogExporter::builder()
        .with_http()
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_http_client(client)
        .build()?;
    let inner = BatchLogProcessor::builder(Counted { inner: exporter, queue: queue.clone() }).build();
    Ok(SdkLoggerProvider::builder()
        .with_resource(resource)
        .with_log_processor(Counted { inner, queue })
        .build())
}

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    std::env::var(variable).ok()?.trim().parse().ok()
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let response = client.execute(reqwest::Request::try_from(request)?).await?;
            Ok::<_, reqwest::Error>(response.status())
        });
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = sent.await??;
        Ok(response)
    }
}

impl Queue {
    fn new(signal: Signal, variable: &str, metrics: &TelemetryMetrics) -> Self {
        let limit = number(variable).unwrap_or(QUEUE_ENTRIES);
        Self { signal, waiting: Arc::default(), limit, metrics: metrics.clone() }
    }

    /// Takes a place for one entry. `false`, and counted, if there is none.
    fn admit(&self) -> bool {
        let is_free = self.waiting.fetch_add(1, Ordering::Relaxed) < self.limit;
        if !is_free {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.metrics.dropped(self.signal, 1);
        }
        is_free
    }

    fn sent(&self, count: usize, result: &OTelSdkResult) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        match result {
            Ok(()) => self.metrics.exported(self.signal, count),
            Err(error) => {
                self.metrics.dropped(self.signal, count);
                crate::log_limit::limited!(
                    warn,
                    %error,
                    "spans or log events could not be sent to the OpenTelemetry endpoint; they are dropped"
                );
            }
        }
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let result = self.inner.export(batch).await;
        self.queue.sent(count, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<P: SpanProcessor> SpanProcessor for Counted<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.queue.admit() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let count = batch.iter().count();
        let result = self.inner.export(batch).await;
        self.queue.sent(count, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<P: LogProcessor> LogProcessor for Counted<P> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.queue.admit() {
            self.inner.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
