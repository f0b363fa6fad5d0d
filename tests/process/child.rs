//! Runs the binary as a child process.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Deadline of every condition, long enough for a machine under load.
pub const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running `flagstream`, killed when it is dropped.
pub struct Flagstream {
    pub child: Child,
    /// Port of its HTTP listener; 0 if the test does not need it.
    pub port: u16,
}

/// A port that nothing listens on. It is never returned twice, and outside of the range from which the system takes the
/// ports of outgoing connections: otherwise a connection of another process could use it before the child listens.
pub fn free_port() -> u16 {
    static RETURNED: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut returned = RETURNED.lock().unwrap();
    let returned = returned.get_or_insert_default();
    for _ in 0..1_000 {
        let port = rand::random_range(10_000..32_000);
        if !returned.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            returned.insert(port);
            return port;
        }
    }
    panic!("no free port");
}

/// A command for the binary without the environment variables of this process, which could contain settings.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flagstream"));
    clean(&mut command, folder);
    command
}

/// A command for a shell that runs `script`, in which `"$@"` is the binary with its arguments.
pub fn shell(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_flagstream")]);
    clean(&mut command, folder);
    command
}

fn clean(command: &mut Command, folder: &Path) {
    command.env_clear().current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    for name in ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    reset_signals(command);
}

/// Starts the child with the default action of every signal that ends a service. A test run under `nohup` or as a
/// background job of a script ignores some of them, and its children would inherit that.
fn reset_signals(command: &mut Command) {
    // SAFETY: signal is async-signal-safe, and the child does not share its signal handlers with this process.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
}

impl Flagstream {
    /// Starts `command`, which serves HTTP on a free port.
    pub fn start(command: &mut Command) -> Self {
        let port = free_port();
        Self::running(command.env("FLAGSTREAM_HTTP__LISTEN", format!("127.0.0.1:{port}")), port)
    }

    /// Starts `command`, which serves HTTP on `port`.
    pub fn running(command: &mut Command, port: u16) -> Self {
        Self { child: command.spawn().unwrap(), port }
    }

    /// Starts `flagstream dev` without output.
    pub fn dev(command: &mut Command) -> Self {
        Self::start(command.args(["dev", "--quiet", "--rate", "0"]))
    }

    /// Sends a GET request for `path` and returns the status.
    pub fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
    }

    /// Waits until `path` returns 200. Fails if the process ends before.
    pub fn wait_for(&mut self, path: &str) {
        let deadline = Instant::now() + DEADLINE;
        while self.get(path).ok().as_deref() != Some("200") {
            assert_eq!(self.child.try_wait().unwrap(), None, "ended instead of serving {path}");
            assert!(Instant::now() < deadline, "{path} is not served");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: the child was not waited for yet, so the id still belongs to it.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits until the process ends by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Sends SIGTERM and expects an orderly exit.
    pub fn stop(mut self) {
        self.signal(libc::SIGTERM);
        assert_eq!(self.ended().code(), Some(0));
    }
}

impl Drop for Flagstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
