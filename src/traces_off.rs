//! OpenTelemetry is not part of this build: the feature `otel` is off. Nothing is collected.

#[path = "traces/subjects.rs"]
mod subjects;

use std::future::Future;

use axum::extract::Request;
use axum::http::StatusCode;

use crate::flag::Answer;
use crate::metrics::Metrics;
use crate::privacy::Shown;

pub use subjects::{Message, WrittenBatch, WrittenRecord};

/// Never exists in this build.
#[derive(Debug)]
pub enum Telemetry {}

/// Never exists in this build.
#[derive(Debug)]
pub enum ServedCall {}

/// Never exists in this build.
#[derive(Debug)]
pub enum Process {}

pub fn start(_instance: &str, _metrics: &Metrics) -> anyhow::Result<Option<Telemetry>> {
    Ok(None)
}

pub fn serve(_request: &mut Request, _method: &'static str, _route: &str) -> Option<ServedCall> {
    None
}

pub fn process(_topic: &str, _partition: i32, _offset: i64, _given: Option<&str>) -> Option<Process> {
    None
}

pub fn written<'a>(_batch: &WrittenBatch<'_>, _records: impl Iterator<Item = WrittenRecord<'a>>) {}

pub fn evaluated(_answer: &Answer<'_>, _flag: &str, _environment: &str, _shown: &Shown<'_>) {}

impl Telemetry {
    pub async fn end(self) {
        match self {}
    }
}

impl ServedCall {
    pub fn around<F: Future>(&self, call: F) -> F {
        call
    }

    pub fn end(self, _status: StatusCode) {
        match self {}
    }
}

impl Process {
    pub fn traceparent(&self) -> &str {
        match *self {}
    }

    pub fn sends(&self, _message: Message) {}
}
