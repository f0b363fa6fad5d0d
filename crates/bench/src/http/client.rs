//! The load generator of benchmarks over HTTP: plain HTTP/1.1 over persistent connections, with minimal client overhead.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{Asker, ENVIRONMENT, asker, flag_name};

use super::Arm;
use super::process::FRONTEND_TOKEN;

/// Number of different calls per connection.
const CALLS: u64 = 512;

/// One measurement.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    pub address: &'a str,
    /// Returns the complete bytes of call `number`.
    pub call: &'a (dyn Fn(u64) -> Vec<u8> + Sync),
    pub connections: usize,
    pub time: Duration,
    /// Calls per second of all connections together; `None` means as fast as possible.
    pub rate: Option<f64>,
}

#[derive(Debug)]
pub struct Measured {
    pub answers: u64,
    pub answer_bytes: usize,
    pub seconds: f64,
    /// Latencies in microseconds, measured from the time at which a call was due.
    pub latencies: Histogram<u64>,
}

impl Load<'_> {
    pub async fn run(&self) -> anyhow::Result<Measured> {
        let begun = Instant::now();
        let tasks: Vec<_> = (0..self.connections)
            .map(|connection| {
                let calls = (0..CALLS).map(|call| (self.call)(connection as u64 * CALLS + call)).collect();
                let interval = self.rate.map(|rate| Duration::from_secs_f64(self.connections as f64 / rate));
                tokio::spawn(connect(self.address.to_owned(), calls, begun, self.time, interval))
            })
            .collect();
        let mut all = Measured { answers: 0, answer_bytes: 0, seconds: 0.0, latencies: Histogram::new(3)? };
        for task in tasks {
            let one = task.await??;
            all.answers += one.answers;
            all.answer_bytes = all.answer_bytes.max(one.answer_bytes);
            all.latencies.add(one.latencies)?;
        }
        all.seconds = begun.elapsed().as_secs_f64();
        Ok(all)
    }
}

/// The complete bytes of call `number` of `bench http`.
pub fn call(arm: Arm, number: u64, flags: usize) -> Vec<u8> {
    let (path, body) = (path(arm, number, flags), body(arm, number, flags));
    let token = match arm {
        Arm::EdgeOne | Arm::EdgeAll => format!("authorization: {FRONTEND_TOKEN}\r\n"),
        _ => String::new(),
    };
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{token}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

pub fn path(arm: Arm, number: u64, flags: usize) -> String {
    match arm {
        Arm::BareOne => "/bench/bare/one".to_owned(),
        Arm::BareAll => "/bench/bare/all".to_owned(),
        Arm::FixedOne => "/bench/fixed/one".to_owned(),
        Arm::One => "/api/v1/feature-flags/evaluate".to_owned(),
        Arm::FixedAll => "/bench/fixed/all".to_owned(),
        Arm::All => "/api/v1/feature-flags/evaluate/bulk".to_owned(),
        Arm::EdgeOne => format!("/api/frontend/features/{}", flag_name(asker(number, flags).flag)),
        Arm::EdgeAll => "/api/frontend/all".to_owned(),
    }
}

/// The body of call `number`. A fixed answer is requested with the same body as a real one.
pub fn body(arm: Arm, number: u64, flags: usize) -> String {
    let Asker { flag, user, session, region, tier, app_version } = asker(number, flags);
    let properties = format!(
        "{{\"region\":\"{region}\",\"subscription_tier\":\"{tier}\",\"app_version\":\"4.2.{app_version}\"}}"
    );
    match arm {
        Arm::BareOne | Arm::FixedOne | Arm::One => format!(
            "{{\"flag_name\":\"{}\",\"user_id\":\"{user}\",\"session_id\":\"s-{session}\",\
             \"context\":{properties},\"default_value\":false,\"environment\":\"{ENVIRONMENT}\"}}",
            flag_name(flag)
        ),
        Arm::BareAll | Arm::FixedAll | Arm::All => format!(
            "{{\"user_id\":\"{user}\",\"session_id\":\"s-{session}\",\"context\":{properties},\
             \"environment\":\"{ENVIRONMENT}\"}}"
        ),
        Arm::EdgeOne | Arm::EdgeAll => {
            format!("{{\"userId\":\"{user}\",\"sessionId\":\"s-{session}\",\"properties\":{properties}}}")
        }
    }
}

/// Makes one call after the other on one connection.
async fn connect(
    address: String,
    calls: Vec<Vec<u8>>,
    begun: Instant,
    time: Duration,
    interval: Option<Duration>,
) -> anyhow::Result<Measured> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut measured = Measured { answers: 0, answer_bytes: 0, seconds: 0.0, latencies: Histogram::new(3)? };
    let mut buffer = vec![0; 256 << 10];
    let mut due = Instant::now();
    for call in calls.iter().cycle() {
        if begun.elapsed() >= time {
            break;
        }
        match interval {
            Some(interval) => {
                due += interval;
                tokio::time::sleep_until(due.into()).await;
            }
            None => due = Instant::now(),
        }
        stream.write_all(call).await?;
        measured.answer_bytes = answer(&mut stream, &mut buffer).await?;
        measured.answers += 1;
        measured.latencies.record(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX))?;
    }
    Ok(measured)
}

/// Reads one response and returns the length of its body.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<usize> {
    let mut filled = 0;
    let (mut body, rest) = loop {
        let room = buffer.get_mut(filled..).filter(|room| !room.is_empty());
        filled += read(stream, room.context("the head of an answer is too large")?).await?;
        if let Some((body, end)) = head(buffer.get(..filled).unwrap_or_default())? {
            break (body, end..filled);
        }
    };
    let mut is_complete = body.push(buffer.get(rest).unwrap_or_default())?;
    while !is_complete {
        let read = read(stream, buffer).await?;
        is_complete = body.push(buffer.get(..read).unwrap_or_default())?;
    }
    Ok(body.bytes)
}

async fn read(stream: &mut TcpStream, room: &mut [u8]) -> anyhow::Result<usize> {
    match stream.read(room).await? {
        0 => bail!("the server closed a connection"),
        read => Ok(read),
    }
}

/// The body that follows a head, and the length of the head; `None` until the head is complete.
fn head(text: &[u8]) -> anyhow::Result<Option<(Body, usize)>> {
    let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(text.get(..end).unwrap_or_default())?.to_ascii_lowercase();
    let is_unchanged = head.starts_with("http/1.1 304");
    anyhow::ensure!(is_unchanged || head.starts_with("http/1.1 200"), "answered: {head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let body = match length {
        _ if is_unchanged => Body::of_length(0),
        Some(length) => Body::of_length(length),
        None => {
            anyhow::ensure!(head.contains("transfer-encoding: chunked"), "no length: {head}");
            Body { left: 0, bytes: 0, chunks: Some(Chunks::default()) }
        }
    };
    Ok(Some((body, end + 4)))
}

/// A body that is received, counted and dropped.
#[derive(Debug)]
struct Body {
    /// Bytes of the body, or of the current chunk, that are still to come.
    left: usize,
    /// Bytes of the body so far, or of a body of known length.
    bytes: usize,
    /// `None`: the length is known.
    chunks: Option<Chunks>,
}

/// State between the chunks of a body.
#[derive(Debug, Default)]
struct Chunks {
    line: Vec<u8>,
    is_last: bool,
}

impl Body {
    fn of_length(bytes: usize) -> Self {
        Self { left: bytes, bytes, chunks: None }
    }

    /// Takes the next bytes. Returns whether the body is complete.
    fn push(&mut self, mut input: &[u8]) -> anyhow::Result<bool> {
        loop {
            let taken = self.left.min(input.len());
            self.left -= taken;
            input = input.get(taken..).unwrap_or_default();
            let Some(chunks) = &mut self.chunks else { return Ok(self.left == 0) };
            if self.left > 0 {
                return Ok(false);
            }
            let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
                chunks.line.extend_from_slice(input);
                return Ok(false);
            };
            chunks.line.extend_from_slice(input.get(..end).unwrap_or_default());
            input = input.get(end + 1..).unwrap_or_default();
            let line = String::from_utf8(std::mem::take(&mut chunks.line))?;
            match line.trim() {
                // The end of a chunk, or of the body.
                "" if chunks.is_last => return Ok(true),
                "" => {}
                _ if chunks.is_last => {}
                size => {
                    let size = size.split(';').next().unwrap_or_default().trim();
                    self.left = usize::from_str_radix(size, 16).context("the size of a chunk")?;
                    self.bytes += self.left;
                    chunks.is_last = self.left == 0;
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Length of the body if the bytes arrive in parts of `size`; `None` if it is incomplete.
    fn received(text: &[u8], size: usize) -> Option<usize> {
        let (mut body, end) = head(text).unwrap().unwrap();
        let rest = text.get(end..).unwrap();
        let mut complete = body.push(b"").unwrap();
        for part in rest.chunks(size) {
            assert!(!complete, "complete before its end");
            complete = body.push(part).unwrap();
        }
        complete.then_some(body.bytes)
    }

    #[test]
    fn bodies_of_every_form_end_where_they_end() {
        let with = |head: &str, body: &str| {
            [b"HTTP/1.1 200 OK\r\n", head.as_bytes(), b"\r\n\r\n", body.as_bytes()].concat()
        };
        for size in [1, 2, 7, 1_000] {
            assert_eq!(received(&with("Content-Length: 5", "hello"), size), Some(5));
            assert_eq!(received(&with("content-length: 5", "hell"), size), None);
            let chunked = "5\r\nhel\nl\r\n10;x=y\r\n0123456789\r\n\r\n12\r\n0\r\n\r\n";
            assert_eq!(received(&with("Transfer-Encoding: chunked", chunked), size), Some(21));
            let cut = chunked.strip_suffix("\r\n").unwrap();
            assert_eq!(received(&with("transfer-encoding: chunked", cut), size), None);
        }
        assert_eq!(received(b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n", 1), Some(0));
        assert!(head(b"HTTP/1.1 503 x\r\n\r\n").is_err() && head(b"HTTP/1.1 200").unwrap().is_none());
    }
}
