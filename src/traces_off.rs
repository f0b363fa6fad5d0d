//! OpenTelemetry is not part of this build: the feature `otel` is off. Nothing is collected.

use std::future::Future;
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;

use crate::flag::Answer;
use crate::metrics::Metrics;
use crate::privacy::Shown;

/// Never exists in this build.
#[derive(Debug)]
pub enum Telemetry {}

/// Never exists in this build.
#[derive(Debug)]
pub enum ServedCall {}

/// Never exists in this build.
#[derive(Debug)]
pub enum Process {}

/// A message that a record leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    Event,
    Reply,
}

/// A batch that is in the database.
#[derive(Debug)]
pub struct WrittenBatch<'a> {
    pub topic: &'a str,
    pub database: &'static str,
    pub records: usize,
    pub took: Duration,
}

/// A record of a batch, with its header `traceparent`.
#[derive(Debug)]
pub struct WrittenRecord<'a> {
    pub partition: i32,
    pub offset: i64,
    pub traceparent: &'a [u8],
}

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
