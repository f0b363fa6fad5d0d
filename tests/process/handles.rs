//! Few file handles.

use std::net::TcpStream;

use crate::child::{Flagstream, shell};

#[test]
fn more_connections_than_handles_end_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Flagstream::dev(&mut shell(folder.path(), r#"ulimit -n 256; exec "$@""#));
    service.wait_for("/health/ready");
    // Beside the handles that it has in use they are more than 256, and fewer than also fit into the system's queue.
    let connect = |_| TcpStream::connect(("127.0.0.1", service.port)).unwrap();
    let connections: Vec<_> = (0..150).map(connect).collect();
    drop(connections);
    service.wait_for("/health/ready");
    service.stop();
}
