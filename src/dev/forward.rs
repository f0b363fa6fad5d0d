//! A fixed address for the embedded broker, whose own port the operating system chooses.
//!
//! Bytes are copied between the two ports unchanged. The broker advertises the fixed address, so clients never see the
//! other one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};

/// The default Kafka port of `dev`.
pub const DEFAULT_PORT: u16 = 29_092;
/// Number of following ports that are tried while they are in use.
const TRIED_PORTS_COUNT: u16 = 100;
/// Delay after a failed accept, for example because the process has too many open files.
const ACCEPT_RETRY_DELAY: std::time::Duration = std::time::Duration::from_millis(100);

/// Binds the first free port of the loopback interface, starting at [`DEFAULT_PORT`].
pub async fn bind() -> io::Result<TcpListener> {
    let mut last = None;
    for port in DEFAULT_PORT..=DEFAULT_PORT + TRIED_PORTS_COUNT {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = Some(error),
            bound => return bound,
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// Forwards every connection to `listener` to `target`, until the runtime ends.
pub async fn forward(listener: TcpListener, target: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((caller, _)) => {
                tokio::spawn(async move {
                    // A closed connection is a normal event, which both ends detect themselves.
                    if let Err(error) = connect(caller, target).await {
                        tracing::debug!(%error, "connection to the embedded broker ended");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the embedded broker could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

async fn connect(mut caller: TcpStream, target: SocketAddr) -> io::Result<()> {
    caller.set_nodelay(true)?;
    let mut broker = TcpStream::connect(target).await?;
    broker.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut caller, &mut broker).await.map(drop)
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_passed_over_and_bytes_go_both_ways() {
        let (first, second) = (bind().await.unwrap(), bind().await.unwrap());
        let address = second.local_addr().unwrap();
        assert!(first.local_addr().unwrap().port() < address.port());

        let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        tokio::spawn(forward(second, target.local_addr().unwrap()));
        let mut caller = TcpStream::connect(address).await.unwrap();
        let (mut called, _) = target.accept().await.unwrap();
        let mut read = [0; 4];
        caller.write_all(b"ping").await.unwrap();
        called.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ping");
        called.write_all(b"pong").await.unwrap();
        caller.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"pong");
    }
}
