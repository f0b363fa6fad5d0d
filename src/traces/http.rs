//! The server span of an HTTP call.

use std::future::Future;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode};
use opentelemetry::trace::{FutureExt as _, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};

use super::{ACTIVE, beneath, remote, traceparent};
use crate::message::trace::{TRACEPARENT, Traceparent};

/// Paths that machines call all the time.
const UNTRACED: &[&str] = &["/health", "/metrics"];

/// A call whose span is open.
#[derive(Debug)]
pub struct ServedCall {
    context: Context,
}

/// Opens the span of a call. The request's `traceparent` names it afterwards, so that the call's events belong to it.
/// `None` if the call is not sampled: its `traceparent` stays as it was.
pub fn serve(request: &mut Request, method: &'static str, route: &str) -> Option<ServedCall> {
    let active = ACTIVE.get().filter(|_| !UNTRACED.iter().any(|path| route.starts_with(path)))?;
    let given = request.headers().get(TRACEPARENT).and_then(|value| Traceparent::parse(value.as_bytes()));
    let parent = given.as_ref().and_then(remote);
    if !active.rule.samples(parent.as_ref()) {
        return None;
    }
    let above = beneath(parent.as_ref());
    let span = active.tracer.span_builder(format!("{method} {route}")).with_kind(SpanKind::Server);
    let context = Context::new().with_span(span.start_with_context(&active.tracer, &above));
    let opened = context.span();
    opened.set_attributes([
        KeyValue::new("http.request.method", method),
        KeyValue::new("http.route", route.to_owned()),
        KeyValue::new("url.path", request.uri().path().to_owned()),
        KeyValue::new("url.scheme", request.uri().scheme_str().unwrap_or("http").to_owned()),
    ]);
    if let Ok(value) = HeaderValue::try_from(traceparent(opened.span_context())) {
        request.headers_mut().insert(TRACEPARENT, value);
    }
    Some(ServedCall { context })
}

impl ServedCall {
    /// Runs the call within the span.
    pub fn around<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        call.with_context(self.context.clone())
    }

    /// Ends the span.
    pub fn end(self, status: StatusCode) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_attribute(KeyValue::new("error.type", status.as_u16().to_string()));
            span.set_status(Status::error(""));
        }
        span.end();
    }
}
