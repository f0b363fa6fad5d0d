//! A TCP proxy for Redis that disturbs connections.

use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Delay of each answer through a slow proxy.
const LATE: Duration = Duration::from_secs(5);
const BUFFER_BYTES: usize = 64 << 10;

/// The disturbance of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Connections are closed immediately.
    Shut,
    Slow,
    /// Answers are replaced by invalid bytes.
    Garbled,
}

/// The running proxy. It stops when dropped.
#[derive(Debug)]
pub(super) struct TcpProxy {
    pub(super) url: String,
    task: JoinHandle<()>,
}

impl TcpProxy {
    /// Starts a proxy to the server of `url`.
    pub(super) async fn open(url: &str, way: Fault) -> anyhow::Result<Self> {
        let address = url.strip_prefix("redis://").context("REDIS_URL: expected redis://HOST:PORT/…")?;
        let (upstream, database) = address.split_once('/').unwrap_or((address, ""));
        let upstream = upstream.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("redis://{}/{database}", listener.local_addr()?);
        let task = tokio::spawn(async move {
            while let Ok((inside, _)) = listener.accept().await {
                if way != Fault::Shut
                    && let Ok(outside) = TcpStream::connect(&upstream).await
                {
                    let (mut asks, answers) = inside.into_split();
                    let (mut back, mut there) = outside.into_split();
                    tokio::spawn(async move { tokio::io::copy(&mut asks, &mut there).await });
                    let mut answers = answers;
                    tokio::spawn(async move {
                        let mut buffer = vec![0; BUFFER_BYTES];
                        while let Ok(count @ 1..) = back.read(&mut buffer).await {
                            let bytes = buffer.get_mut(..count).unwrap_or_default();
                            match way {
                                Fault::Garbled => bytes.fill(b'?'),
                                Fault::Slow => tokio::time::sleep(LATE).await,
                                Fault::Shut => {}
                            }
                            if answers.write_all(bytes).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        Ok(Self { url, task })
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
