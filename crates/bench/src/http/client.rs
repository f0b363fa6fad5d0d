//! The load generator of `bench http`: plain HTTP/1.1 over persistent connections, with minimal client overhead.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{Asker, ENVIRONMENT, asker, flag_name};

use super::Arm;
use super::process::EDGE_TOKEN;

/// Number of different calls per connection.
const CALLS: u64 = 512;
const LARGEST_HEAD_BYTES: usize = 4 << 10;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    pub address: &'a str,
    pub arm: Arm,
    pub flags: usize,
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
                let calls = (0..CALLS).map(|call| self.call(connection as u64 * CALLS + call)).collect();
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

    /// The complete bytes of one call.
    fn call(&self, number: u64) -> Vec<u8> {
        let (path, body) = (path(self.arm, number, self.flags), body(self.arm, number, self.flags));
        let token = match self.arm {
            Arm::EdgeOne | Arm::EdgeAll => format!("authorization: {EDGE_TOKEN}\r\n"),
            _ => String::new(),
        };
        format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{token}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
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
    let (mut filled, mut whole) = (0, None);
    loop {
        if let Some((head, length)) = whole
            && filled >= head + length
        {
            return Ok(length);
        }
        // Bodies larger than the buffer are counted, not stored.
        let from = if whole.is_some() { LARGEST_HEAD_BYTES } else { filled };
        let room = buffer.get_mut(from..).context("the head of an answer is too large")?;
        let read = stream.read(room).await?;
        if read == 0 {
            bail!("the server closed a connection");
        }
        filled += read;
        if whole.is_none() {
            whole = head(buffer.get(..filled).unwrap_or_default())?;
        }
    }
}

/// The lengths of head and body; `None` until the head is complete.
fn head(text: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(text.get(..end).unwrap_or_default())?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "answered: {head}");
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    Ok(Some((end + 4, length.context("no content-length")?)))
}
