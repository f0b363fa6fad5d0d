//! The service as a child process: started, killed, frozen, stopped; never left behind.

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::command::{binary, binary_at};
use super::http::{HEALTH_TOKEN, Metrics, get, get_with_token};
use super::{TEST_TIMEOUT, Topics, temporary_folder, wait_until};

const BOOTSTRAP_TOKEN: &str = "FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN";
/// The end of a log that is printed when a test fails.
const LOG_TAIL_BYTES: usize = 12_000;

/// The instances of one test: settings that all share, a folder, and the topics.
#[derive(Debug, Clone)]
pub struct Group {
    /// Kept by its services too: a log must outlive whatever fails.
    pub folder: Arc<tempfile::TempDir>,
    pub topics: Topics,
    settings: Vec<(String, String)>,
}

impl Group {
    /// Makes topics; instances start with [`Group::start`].
    pub fn new(stack: &super::Stack) -> Self {
        let folder = Arc::new(temporary_folder());
        let topics = Topics::apply(stack, folder.path());
        let settings = topics.settings();
        Self { folder, topics, settings }
    }

    /// Sets a variable for instances started from now on.
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// The variables of its instances.
    pub fn settings(&self) -> Vec<(String, String)> {
        self.settings.clone()
    }

    /// An instance that is ready.
    pub fn start(&self, name: &str) -> Service {
        let mut service = self.prepare(name);
        service.spawn();
        service.wait_until_ready();
        service
    }

    /// An instance that was not started yet.
    pub fn prepare(&self, name: &str) -> Service {
        let port = free_port();
        let mut settings = vec![(
            "FLAGSTREAM_LOG".to_owned(),
            std::env::var("FLAGSTREAM_TEST_LOG").unwrap_or_else(|_| "info".to_owned()),
        )];
        settings.push((BOOTSTRAP_TOKEN.to_owned(), HEALTH_TOKEN.to_owned()));
        settings.extend(self.settings());
        // Most tests write their flags themselves, or none at all.
        if !settings.iter().any(|(name, _)| name == "UNLEASH_URL" || name == "DATABASE_URL") {
            settings.push(("FLAGSTREAM_FEED__START_WITHOUT_SOURCE".to_owned(), "true".to_owned()));
        }
        settings.extend([
            ("FLAGSTREAM_INSTANCE".to_owned(), name.to_owned()),
            ("FLAGSTREAM_HTTP__LISTEN".to_owned(), format!("127.0.0.1:{port}")),
            ("FLAGSTREAM_STATE_DIR".to_owned(), self.folder.path().join("state").display().to_string()),
        ]);
        Service {
            name: name.to_owned(),
            settings,
            folder: Arc::clone(&self.folder),
            _topics: self.topics.clone(),
            log: self.folder.path().join(format!("{name}.log")),
            url: format!("http://127.0.0.1:{port}"),
            roles: None,
            program: None,
            child: None,
        }
    }
}

/// One instance, running or not.
#[derive(Debug)]
pub struct Service {
    pub name: String,
    pub url: String,
    settings: Vec<(String, String)>,
    folder: Arc<tempfile::TempDir>,
    /// Topics of the service, kept so that they are not deleted while it runs.
    _topics: Topics,
    log: PathBuf,
    /// `None`: all.
    roles: Option<String>,
    /// `None`: the binary under test.
    program: Option<PathBuf>,
    child: Option<Child>,
}

impl Service {
    /// Only these roles, from the next start on.
    pub fn roles(mut self, roles: &str) -> Self {
        self.roles = Some(roles.to_owned());
        self
    }

    /// Uses another binary, such as that of another version, from the next start on; `None`: the one under test.
    pub fn use_program(&mut self, program: Option<PathBuf>) {
        self.program = program;
    }

    /// Starts the process, without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = match &self.program {
            Some(program) => binary_at(program, self.folder.path()),
            None => binary(self.folder.path()),
        };
        command
            .arg("run")
            .args(self.roles.iter().flat_map(|roles| ["--roles", roles]))
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        // SAFETY: prctl and signal are async-signal-safe and touch nothing of the parent's.
        unsafe {
            command.pre_exec(|| {
                // Not left behind even if the test process is killed. It follows the thread that spawned it,
                // so services are started from a test's own thread only.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // A test run under `nohup` ignores this one, and its children would inherit that.
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                Ok(())
            });
        }
        self.child = Some(command.spawn().unwrap());
    }

    /// Waits for `/health/ready`, and fails at once if the process ends instead.
    pub fn wait_until_ready(&mut self) {
        let url = format!("{}/health/ready", self.url);
        let name = self.name.clone();
        wait_until(&format!("{name} ready"), TEST_TIMEOUT, || {
            self.assert_running();
            get(&url).is_some_and(|(status, _)| status == 200)
        });
    }

    /// Fails if the process ended unexpectedly.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
            panic!("{} ended by itself: {status}", self.name);
        }
    }

    /// `/health`, whole.
    pub fn health(&self) -> serde_json::Value {
        let token = self.settings.iter().rfind(|(name, _)| name == BOOTSTRAP_TOKEN);
        let token = token.map_or(HEALTH_TOKEN, |(_, token)| token);
        let answer = get_with_token(&format!("{}/health", self.url), token);
        let (_, body) = answer.expect("nobody answers /health");
        serde_json::from_str(&body).unwrap()
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::read(&self.url)
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let pid = self.child.as_ref().unwrap().id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    /// SIGKILL: nothing is tidied up.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{} had ended before: {status}", self.name);
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// SIGTERM; the status it ended with and how long that took.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        self.signal(libc::SIGTERM);
        let mut child = self.child.take().unwrap();
        let what = format!("{} ended after SIGTERM", self.name);
        let deadline = asked + TEST_TIMEOUT;
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    let _ = child.kill();
                    panic!("not within {TEST_TIMEOUT:?}: {what}");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        (status, asked.elapsed())
    }

    /// Output of all processes of this service so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        // SAFETY: the child was not waited for, so the id is still its own.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "{}: signal {signal}", self.name);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            if std::thread::panicking() {
                eprintln!("---- {}, its counters ----\n{}", self.name, counters(&self.url));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let whole = keep(&self.log);
            eprintln!("---- {}; all of it in {} ----\n{}", self.name, whole.display(), tail(&self.log));
        }
    }
}

/// Counters that are not zero, without histograms.
fn counters(url: &str) -> String {
    let text = get(&format!("{url}/metrics")).map_or_else(String::new, |(_, text)| text);
    let told = |line: &&str| !line.starts_with('#') && !line.contains("_bucket") && !line.ends_with(" 0");
    text.lines().filter(told).collect::<Vec<_>>().join("\n")
}

/// Puts a log where it survives the test.
fn keep(log: &Path) -> PathBuf {
    let folder = log.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{folder}-{name}"));
    let _ = fs::copy(log, &kept);
    kept
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let start = text.len().saturating_sub(LOG_TAIL_BYTES);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

/// A port that nothing listens on, never given twice, and not one that the system gives to outgoing connections:
/// a service that was killed must find its port free again.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap();
    let given = given.get_or_insert_default();
    for _ in 0..1_000 {
        let port = rand::random_range(10_000..32_000);
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no free port");
}
