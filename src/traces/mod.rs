//! OpenTelemetry: spans of HTTP calls, of requests from Kafka and of the sink's writes, and the log event
//! `feature_flag.evaluation` of each sampled evaluation. Configured by the standard's variables `OTEL_…`; without an
//! endpoint nothing is collected.
//!
//! ```text
//! traceparent of the caller ─► span of the call, or of the request's processing ─► traceparent of events and reply
//! traceparent of an event   ─► span of the sink's write
//! spans and log events ─► bounded queues ─► OTLP over HTTP
//! ```

mod audit;
mod evaluation;
mod export;
mod http;
mod kafka;
mod sampling;
mod subjects;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::logs::LoggerProvider as _;
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceState, TracerProvider as _};
use opentelemetry::{Context, KeyValue, SpanId, TraceFlags, TraceId};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

pub use audit::written;
pub use evaluation::evaluated;
pub use http::{ServedCall, serve};
pub use kafka::{Process, process};
use sampling::SamplingRule;
pub use subjects::{Message, WrittenBatch, WrittenRecord};

use crate::message::trace::Traceparent;
use crate::metrics::Metrics;

/// Instrumentation scope of all spans and log events.
const SCOPE: &str = "flagstream";
/// How long a stop waits for the last spans to be sent.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The sources of spans and log events of this process. Unset: OpenTelemetry is not configured.
static ACTIVE: OnceLock<Active> = OnceLock::new();

#[derive(Debug)]
struct Active {
    tracer: SdkTracer,
    rule: SamplingRule,
    logger: SdkLogger,
}

/// Sends spans and log events until [`Telemetry::end`].
#[derive(Debug)]
pub struct Telemetry {
    spans: SdkTracerProvider,
    logs: SdkLoggerProvider,
}

/// Starts OpenTelemetry if the environment names an endpoint. Must be called within a Tokio runtime.
pub fn start(instance: &str, metrics: &Metrics) -> anyhow::Result<Option<Telemetry>> {
    if !is_configured(|name| std::env::var(name).ok()) {
        return Ok(None);
    }
    let resource = resource(instance, std::env::var("OTEL_SERVICE_NAME").ok());
    let client = export::client().context("OpenTelemetry")?;
    let rule = SamplingRule::read(|name| std::env::var(name).ok());
    let spans = export::spans(client.clone(), resource.clone(), rule.sampler(), &metrics.telemetry)
        .context("OpenTelemetry")?;
    let logs = export::logs(client, resource, &metrics.telemetry).context("OpenTelemetry")?;
    let active = Active { tracer: spans.tracer(SCOPE), rule, logger: logs.logger(SCOPE) };
    // Only tests start two services in one process; the first one's settings count.
    let _ = ACTIVE.set(active);
    tracing::info!("spans and log events are sent to the OpenTelemetry endpoint");
    Ok(Some(Telemetry { spans, logs }))
}

impl Telemetry {
    /// Sends what waits, within a bounded time.
    pub async fn end(self) {
        let ended = tokio::task::spawn_blocking(move || {
            let spans = self.spans.shutdown_with_timeout(STOP_TIMEOUT);
            spans.and(self.logs.shutdown_with_timeout(STOP_TIMEOUT))
        });
        if let Ok(Err(error)) = ended.await {
            // Not limited: once at the end of a process.
            tracing::warn!(%error, "the last spans and log events may not have been sent");
        }
    }
}

/// Whether an endpoint is named and the SDK is not disabled.
fn is_configured(variable: impl Fn(&str) -> Option<String>) -> bool {
    let is_set = |name| variable(name).is_some_and(|value| !value.trim().is_empty());
    let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let endpoints = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    ];
    !is_disabled && endpoints.into_iter().any(is_set)
}

fn resource(instance: &str, service_name: Option<String>) -> Resource {
    let service_name =
        service_name.filter(|name| !name.is_empty()).unwrap_or_else(|| "flagstream".to_owned());
    Resource::builder()
        .with_service_name(service_name)
        .with_attributes([
            KeyValue::new("service.instance.id", instance.to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}

/// The span that a caller names in its `traceparent`.
fn remote(traceparent: &Traceparent) -> Option<SpanContext> {
    let text = std::str::from_utf8(traceparent.as_bytes()).ok()?;
    let mut parts = text.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?.get(..2)?, 16).ok()?;
    // Only the flag `sampled` is known to this version of the standard.
    let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
    Some(SpanContext::new(trace, span, flags, true, TraceState::default()))
}

/// The context whose spans are children of `parent`, or roots without one.
fn beneath(parent: Option<&SpanContext>) -> Context {
    let root = Context::new();
    parent.map_or_else(|| root.clone(), |parent| root.with_remote_span_context(parent.clone()))
}

/// The `traceparent` that names a span.
fn traceparent(span: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8())
}
