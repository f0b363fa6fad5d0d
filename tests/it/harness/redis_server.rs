//! Redis servers of a test's own, for what the shared one is not: a cluster, TLS.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Redis, TEST_TIMEOUT, free_port, programs, wait_until};

/// A server that ends with this.
#[derive(Debug)]
pub struct RedisServer {
    pub port: u16,
    child: Child,
}

impl RedisServer {
    /// Whether servers are to be started here. Where the stack runs in containers there may be none to start.
    pub fn is_wanted() -> bool {
        programs::is_wanted("redis-server")
    }

    /// A plain one, which answers.
    pub fn plain(folder: &Path, options: &[&str]) -> Self {
        Self::plain_of("redis-server".as_ref(), folder, options)
    }

    /// A plain server of another program that takes the same options.
    pub fn plain_of(program: &Path, folder: &Path, options: &[&str]) -> Self {
        let server = Self::start_of(program, folder, |port| {
            ["--port".to_owned(), port.to_string()]
                .into_iter()
                .chain(options.iter().map(|o| (*o).to_owned()))
                .collect()
        });
        wait_until("redis answers", TEST_TIMEOUT, || server.cli(&["PING"]).contains("PONG"));
        server
    }

    /// Client for the server's first database.
    pub fn redis(&self) -> Redis {
        Redis::at(&format!("redis://127.0.0.1:{}/0", self.port))
    }

    /// Listens on a port of its own, with these options and nothing on disk but in `folder`.
    pub fn start(folder: &Path, options: impl FnOnce(u16) -> Vec<String>) -> Self {
        Self::start_of("redis-server".as_ref(), folder, options)
    }

    fn start_of(program: &Path, folder: &Path, options: impl FnOnce(u16) -> Vec<String>) -> Self {
        let port = free_port();
        let folder = folder.join(format!("redis-{port}"));
        std::fs::create_dir(&folder).unwrap();
        let child = Command::new(program)
            .args(["--save", "", "--bind", "127.0.0.1", "--dir"])
            .arg(&folder)
            .args(options(port))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { port, child }
    }

    /// A cluster of three masters, without replicas.
    pub fn cluster(folder: &Path) -> Vec<Self> {
        let node = |_| {
            Self::start(folder, |port| {
                let bus = free_port().to_string();
                let port = port.to_string();
                ["--port", &port, "--cluster-enabled", "yes", "--cluster-port", &bus]
                    .map(str::to_owned)
                    .to_vec()
            })
        };
        let nodes: Vec<Self> = (0..3).map(node).collect();
        for (number, node) in nodes.iter().enumerate() {
            wait_until("a node answers", TEST_TIMEOUT, || node.cli(&["PING"]).contains("PONG"));
            let (first, last) = (number * 5_462, ((number + 1) * 5_462).min(16_384) - 1);
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
        for node in &nodes[1..] {
            let bus = node.cli(&["CONFIG", "GET", "cluster-port"]);
            let bus = bus.lines().last().unwrap();
            nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]);
        }
        for node in &nodes {
            wait_until("the cluster stands", TEST_TIMEOUT, || {
                node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && node.cli(&["CLUSTER", "NODES"]).lines().count() == 3
            });
        }
        nodes
    }

    /// Output of `redis-cli`; `-c` follows redirections.
    pub fn cli(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-c", "-p", &self.port.to_string()])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
