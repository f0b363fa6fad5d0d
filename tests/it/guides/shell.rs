//! The terminals of a guide's reader.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{Dev, Metrics, TEST_TIMEOUT, command, program, wait_until};

/// Address that the guides name.
const DOCUMENTED: &str = "127.0.0.1:8082";

/// Runs commands in the folder of a running `dev`.
pub struct Shell<'d> {
    folder: &'d Path,
    dev: &'d Dev,
}

/// Command that runs in the background until the test ends.
pub struct Background {
    child: Child,
    output: PathBuf,
}

impl<'d> Shell<'d> {
    pub fn new(folder: &'d Path, dev: &'d Dev) -> Self {
        Self { folder, dev }
    }

    /// The text with the address of this `dev`.
    pub fn adapted(&self, text: &str) -> String {
        text.replace(DOCUMENTED, &self.dev.listen)
    }

    /// Whether the command succeeded, and all that it printed.
    pub fn run(&self, command: &str) -> (bool, String) {
        let output = self.bash(command).output().unwrap();
        (output.status.success(), self.documented(&output.stdout))
    }

    /// Starts a command that follows changes, and waits until it does.
    pub fn start(&self, command: &str) -> Background {
        let listeners = || Metrics::read(&self.dev.url).sum("flagstream_http_listeners", &[]);
        let before = listeners();
        let output = tempfile::NamedTempFile::new_in(self.folder).unwrap().keep().unwrap().1;
        let child =
            self.bash(command).stdout(File::create(&output).unwrap()).process_group(0).spawn().unwrap();
        wait_until("changes are followed", TEST_TIMEOUT, || listeners() > before);
        Background { child, output }
    }

    /// The output of a command so far.
    pub fn printed(&self, running: &Background) -> String {
        self.documented(&std::fs::read(&running.output).unwrap())
    }

    fn bash(&self, script: &str) -> Command {
        let program = program();
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut bash = Command::new("bash");
        // The environment that the harness gives to the binary.
        let clean = command(self.folder);
        bash.env_clear().envs(clean.get_envs().filter_map(|(name, value)| Some((name, value?))));
        bash.env_remove("RUST_BACKTRACE").env("PATH", path).current_dir(self.folder);
        bash.args(["-c", &format!("exec 2>&1\n{}", self.adapted(script))]);
        bash.stdin(Stdio::null());
        bash
    }

    fn documented(&self, printed: &[u8]) -> String {
        String::from_utf8_lossy(printed).replace(&self.dev.listen, DOCUMENTED)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // SAFETY: no memory is touched; the process group was made for this command and is not reaped yet.
        unsafe { libc::kill(-self.child.id().cast_signed(), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}
