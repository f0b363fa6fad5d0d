//! Follows flag changes over server-sent events (`/api/v1/changes`), and invalidates the cache.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::ACCEPT;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::cache::Cache;
use super::client::{Client, part_of};

/// Timeout of a silent connection. The service writes at least a heartbeat every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
const MAX_LINE_BYTES: usize = 64 << 10;
const RETRY_BASE: Duration = Duration::from_secs(1);
const RETRY_CAP: Duration = Duration::from_secs(30);

/// Follows changes until the task is aborted. `following` is `true` while the stream works.
pub(super) async fn follow(client: Arc<Client>, following: watch::Sender<bool>) {
    let mut heard = Heard::default();
    let mut failures = 0_u32;
    loop {
        listen(&client, &mut heard, &following).await;
        failures = if following.send_replace(false) { 0 } else { failures.saturating_add(1) };
        let most = RETRY_BASE.saturating_mul(2_u32.saturating_pow(failures)).min(RETRY_CAP);
        sleep(part_of(most)).await;
    }
}

/// Reads one connection until it ends or times out.
async fn listen(client: &Client, heard: &mut Heard, following: &watch::Sender<bool>) {
    let mut address = client.address("api/v1/changes");
    if let Some(environment) = &client.options.environment {
        address.query_pairs_mut().append_pair("environment", environment);
    }
    let mut request = client.request(Method::GET, address).header(ACCEPT, "text/event-stream");
    if let Some(id) = &heard.last_id {
        request = request.header("Last-Event-ID", id);
    }
    let answered = timeout(client.options.attempt_timeout, request.send()).await;
    let Ok(Ok(mut response)) = answered else { return };
    if response.status() != StatusCode::OK {
        return;
    }
    client.breaker.may_be_well(client.clock.now());
    heard.restart();
    while let Ok(Ok(Some(chunk))) = timeout(SILENCE, response.chunk()).await {
        if heard.take(&chunk, &client.cache).is_err() {
            return;
        }
        if heard.last_id.is_some() {
            following.send_if_modified(|following| !std::mem::replace(following, true));
        }
    }
}

/// State of the stream's parser.
#[derive(Debug, Default)]
struct Heard {
    last_id: Option<String>,
    line: Vec<u8>,
    id: String,
    data: Vec<u8>,
}

/// The line is longer than any that the service writes.
#[derive(Debug)]
struct LineTooLong;

#[derive(Deserialize)]
struct Invalidation {
    version: u64,
    #[serde(default)]
    environment: String,
}

impl Heard {
    fn take(&mut self, chunk: &[u8], cache: &Cache) -> Result<(), LineTooLong> {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() > MAX_LINE_BYTES {
                return Err(LineTooLong);
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.end_line(line.trim_ascii_end(), cache);
            }
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8], cache: &Cache) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"id" => self.id = String::from_utf8_lossy(value).into_owned(),
            // The service writes the data of an event in one line.
            b"data" => self.data = value.to_vec(),
            _ if line.is_empty() && !self.id.is_empty() => self.end_event(cache),
            _ => {}
        }
    }

    fn end_event(&mut self, cache: &Cache) {
        if !self.data.is_empty() {
            if let Ok(event) = serde_json::from_slice::<Invalidation>(&self.data) {
                cache.invalidate(event.version, &event.environment);
            }
        } else if let Ok(version) = self.id.parse() {
            // The first event only contains the current version; earlier changes are not sent.
            cache.invalidate(version, "");
        }
        self.last_id = Some(std::mem::take(&mut self.id));
        self.restart();
    }

    /// Discards an incomplete event of a broken connection.
    fn restart(&mut self) {
        self.line.clear();
        self.id.clear();
        self.data.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_understood_wherever_they_are_cut() {
        let stream = "id: 5\n\n: comment\r\n\nid: 7\r\ndata: {\"version\":7,\"environment\":\"e\"}\r\n\r\n\
            data: {\"version\":99}\n\nid: 8\ndata: garbage\n\nid: half";
        for size in 1..stream.len() {
            let (cache, mut heard) = (Cache::new(1, Duration::from_secs(1)), Heard::default());
            for chunk in stream.as_bytes().chunks(size) {
                heard.take(chunk, &cache).unwrap();
            }
            assert_eq!(cache.newest(), 7, "in pieces of {size}");
            assert_eq!(heard.last_id.as_deref(), Some("8"));
        }
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let cache = Cache::new(1, Duration::from_secs(1));
        let mut heard = Heard::default();
        let taken = (0..100).try_for_each(|_| heard.take(&[b'x'; 1_000], &cache));
        assert!(taken.is_err() && heard.line.len() <= MAX_LINE_BYTES);
    }
}
