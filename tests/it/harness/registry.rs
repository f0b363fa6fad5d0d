//! A schema registry of a test's own: Apicurio, asked by Confluent's API.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Stack, free_port, get, wait_until};

/// A Java process that compiles itself warm; the machine may be busy.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Ends with this, and keeps nothing.
#[derive(Debug)]
pub struct SchemaRegistry {
    pub url: String,
    child: Child,
}

impl SchemaRegistry {
    /// One that answers; its log is in `folder`.
    pub fn start(stack: &Stack, folder: &Path) -> Self {
        let port = free_port();
        let home = Path::new(&stack.apicurio);
        let jar = std::fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name());
        let jar =
            jar.map(|name| name.to_string_lossy().into_owned()).find(|name| name.ends_with("-runner.jar"));
        let log = File::create(folder.join("apicurio.log")).unwrap();
        let mut command = Command::new("java");
        command
            .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1"])
            .arg(format!("-Dquarkus.http.port={port}"))
            .args(["-jar", &jar.expect("Apicurio's jar")])
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        // SAFETY: prctl is async-signal-safe and touches nothing of the parent's.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let registry =
            Self { url: format!("http://127.0.0.1:{port}/apis/ccompat/v7"), child: command.spawn().unwrap() };
        let subjects = format!("{}/subjects", registry.url);
        wait_until("the schema registry answers", START_LIMIT, || {
            get(&subjects).is_some_and(|(status, _)| status == 200)
        });
        registry
    }

    /// Answers nothing until [`SchemaRegistry::thaw`].
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: the child was not waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }
}

impl Drop for SchemaRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
