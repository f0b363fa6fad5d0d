//! The binary as a child process.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Within this time every condition is expected; a machine under load takes long.
pub const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running `flagstream`, killed when it is dropped.
pub struct Flagstream {
    pub child: Child,
    /// Of its HTTP listener; 0 if the test knows it.
    pub port: u16,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The binary without the variables of this process, which a setting among them would change.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flagstream"));
    clean(&mut command, folder);
    command
}

/// A shell that runs `script`, in which `"$@"` is the binary with what `arguments` adds.
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
}

impl Flagstream {
    /// Starts `command`, which is to serve HTTP on a port of its own.
    pub fn start(command: &mut Command) -> Self {
        let port = free_port();
        Self::running(command.env("FLAGSTREAM_HTTP__LISTEN", format!("127.0.0.1:{port}")), port)
    }

    /// Starts `command`, which serves HTTP on `port`.
    pub fn running(command: &mut Command, port: u16) -> Self {
        Self { child: command.spawn().unwrap(), port }
    }

    /// `flagstream dev` that prints nothing, in `folder`.
    pub fn dev(command: &mut Command) -> Self {
        Self::start(command.args(["dev", "--quiet", "--rate", "0"]))
    }

    /// The status that a GET of `path` is answered with.
    pub fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
    }

    /// Waits until `path` is answered with 200. The process must not end meanwhile.
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
        // SAFETY: the child was not waited for yet, so that the id is its own.
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

    /// Sends SIGTERM; the process must end in order.
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
