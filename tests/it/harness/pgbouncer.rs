//! PgBouncer in front of the Postgres of the stack.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use reqwest::Url;

use super::{TEST_TIMEOUT, free_port, programs, temporary_folder, wait_until};

/// A pooler, which ends on drop.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    file: PathBuf,
    _folder: tempfile::TempDir,
    server: Url,
    child: Option<Child>,
}

impl PgBouncer {
    pub fn is_wanted() -> bool {
        programs::is_wanted("pgbouncer")
    }

    /// Starts a pooler with this `pool_mode` for all databases of the server at `postgres`.
    pub fn start(postgres: &str, pool_mode: &str) -> Self {
        let folder = temporary_folder();
        // PgBouncer refuses to run as root, and its user must be able to read the file.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let server = Url::parse(postgres).unwrap();
        let file = folder.path().join("pgbouncer.ini");
        let mut pooler = Self { port: free_port(), file, _folder: folder, server, child: None };
        pooler.run(pool_mode);
        pooler
    }

    /// The URL of a database through the pooler.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{}@127.0.0.1:{}/{database}", self.server.username(), self.port)
    }

    /// Ends the pooler with all its sessions, and starts it with another `pool_mode` at the same address.
    pub fn restart(&mut self, pool_mode: &str) {
        self.end();
        self.run(pool_mode);
    }

    fn run(&mut self, pool_mode: &str) {
        fs::write(&self.file, self.settings(pool_mode)).unwrap();
        let mut command = Command::new("pgbouncer");
        if is_root(&self.file) {
            command.args(["-u", "nobody"]);
        }
        self.child = Some(command.arg("-q").arg(&self.file).stderr(Stdio::null()).spawn().unwrap());
        let port = self.port;
        wait_until("the pooler listens", TEST_TIMEOUT, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    fn settings(&self, pool_mode: &str) -> String {
        let (host, port) = (self.server.host_str().unwrap(), self.server.port().unwrap_or(5432));
        let (user, password) = (self.server.username(), self.server.password().unwrap_or_default());
        let mut text = format!("[databases]\n* = host={host} port={port} user={user} password={password}\n");
        let settings = [
            ("listen_addr", "127.0.0.1"),
            ("listen_port", &self.port.to_string()),
            ("unix_socket_dir", ""),
            // Every client is the user of the server.
            ("auth_type", "any"),
            ("pool_mode", pool_mode),
            ("default_pool_size", "20"),
            ("ignore_startup_parameters", "extra_float_digits"),
        ];
        text.push_str("[pgbouncer]\n");
        for (name, value) in settings {
            writeln!(text, "{name} = {value}").unwrap();
        }
        text
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether this process, which has created the file, is root's.
fn is_root(file: &Path) -> bool {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(file).unwrap()) == 0
}
