//! Tests with few file descriptors.

use std::net::TcpStream;

use crate::child::{Flagstream, shell};

#[test]
fn more_connections_than_handles_end_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Flagstream::dev(&mut shell(folder.path(), r#"ulimit -n 256; exec "$@""#));
    service.wait_for("/health/ready");
    // Together with the descriptors in use these exceed 256, but the excess still fits into the system's accept queue.
    let connect = |_| TcpStream::connect(("127.0.0.1", service.port)).unwrap();
    let connections: Vec<_> = (0..150).map(connect).collect();
    drop(connections);
    service.wait_for("/health/ready");
    service.stop();
}
