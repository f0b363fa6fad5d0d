//! All SDKs at once, unchanged, in front of one instance.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use serde_json::{Value, json};

use super::{Fixture, ask};
use crate::harness::{Mood, Stack, TEST_TIMEOUT};

/// Programs with SDKs, and what they print.
pub(super) struct Sdks {
    children: Vec<Child>,
    sender: Sender<Value>,
    lines: Receiver<Value>,
    /// Lines printed so far.
    pub seen: Vec<Value>,
    /// Last state of the flags by SDK.
    state: BTreeMap<String, Value>,
}

impl Sdks {
    pub fn new() -> Self {
        let (sender, lines) = channel();
        Self { children: Vec::new(), sender, lines, seen: Vec::new(), state: BTreeMap::new() }
    }

    /// Starts SDKs for Node.js and browsers; each entry is one of them.
    pub fn node(&mut self, stack: &Stack, sdks: &[Value]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/unleash_api/sdks.mjs");
        let mut command = Command::new("node");
        command.args([script, &json!(sdks).to_string()]);
        self.spawn(command.env("FLAGSTREAM_TEST_NODE_MODULES", &stack.node_modules));
    }

    pub fn python(&mut self, stack: &Stack, arguments: &[&str], folder: &std::path::Path) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/unleash_api/sdk.py");
        let mut command = Command::new("python3");
        command.arg(script).args(arguments).env("TMPDIR", folder);
        self.spawn(command.env("PYTHONPATH", &stack.python_path));
    }

    /// Starts the SDK for Java; `false` where there is none.
    pub fn java(&mut self, stack: &Stack, arguments: &[&str], folder: &std::path::Path) -> bool {
        if stack.unleash_jars.is_empty() {
            eprintln!("left out: the SDK for Java");
            return false;
        }
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/unleash_api/Sdk.java");
        let mut command = Command::new("java");
        command.arg(format!("-Djava.io.tmpdir={}", folder.display()));
        command.args(["-cp", &format!("{}/*", stack.unleash_jars), program]).args(arguments);
        self.spawn(&mut command);
        true
    }

    /// Starts a program that prints its state as lines of JSON.
    pub fn spawn(&mut self, command: &mut Command) {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (lines, sender) = (BufReader::new(child.stdout.take().unwrap()).lines(), self.sender.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line) {
                    let _ = sender.send(line);
                }
            }
        });
        self.children.push(child);
    }

    /// Waits until a line fits.
    pub fn wait(&mut self, what: &str, mut fits: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while !fits(self) {
            let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line =
                line.unwrap_or_else(|_| panic!("{what}: not in time: {:#?}\n{:#?}", self.state, self.seen));
            if line["flags"].is_object() {
                self.state.insert(line["sdk"].as_str().unwrap().to_owned(), line["flags"].clone());
            }
            self.seen.push(line);
        }
    }

    /// Waits until every one of these SDKs has this state; returns the time each took, in milliseconds.
    pub fn agree(&mut self, what: &str, names: &[&str], flags: &Value) -> Vec<(String, u128)> {
        let (begun, mut took) = (Instant::now(), Vec::<(String, u128)>::new());
        self.wait(what, |sdks| {
            for name in names {
                let is_new = !took.iter().any(|(known, _)| known == name);
                if is_new && sdks.state.get(*name) == Some(flags) {
                    took.push(((*name).to_owned(), begun.elapsed().as_millis()));
                }
            }
            names.iter().all(|name| sdks.state.get(*name) == Some(flags))
        });
        took
    }

    /// Lines of one SDK that have a member.
    pub fn with(&self, sdk: &str, member: &str) -> Vec<&Value> {
        self.seen.iter().filter(|line| line["sdk"] == sdk && !line[member].is_null()).collect()
    }
}

impl Drop for Sdks {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.stdin.take());
            if std::thread::panicking() {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }
}

#[test]
fn every_sdk_follows_changes_and_kills_with_only_its_url_changed() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    fixture.flags(&["steady", "toggled"]);
    let service = fixture.group.start("one");
    let flags = [fixture.admin.name("steady"), fixture.admin.name("toggled")];
    let (api, frontend) = (format!("{}/api", service.url), format!("{}/api/frontend", service.url));
    let folder = fixture.group.folder.path();
    let mut sdks = Sdks::new();
    let backend = |name: &str, streaming: Value| {
        json!({"name": name, "kind": "backend", "url": api, "token": fixture.backend, "flags": flags,
            "streaming": streaming})
    };
    let browser = |name: &str, url: &str, post: bool| json!({"name": name, "kind": "frontend", "url": url, "token": fixture.frontend, "flags": flags, "post": post});
    sdks.node(
        stack,
        &[
            backend("polling", Value::Null),
            backend("streaming", json!(true)),
            browser("get", &frontend, false),
            browser("post", &frontend, true),
            browser("proxy", &format!("{}/api/proxy/", service.url), false),
        ],
    );
    let arguments = [&fixture.backend, "1", &flags[0], &flags[1]].map(str::to_owned);
    let arguments: Vec<&str> =
        std::iter::once(api.as_str()).chain(arguments.iter().map(String::as_str)).collect();
    sdks.python(stack, &arguments, folder);
    let mut names = vec!["polling", "streaming", "get", "post", "proxy", "python"];
    if sdks.java(stack, &arguments, folder) {
        names.push("java");
    }
    let state = |steady: bool, toggled: bool| json!({&flags[0]: steady, &flags[1]: toggled});
    sdks.agree("all SDKs are ready", &names, &state(true, true));
    fixture.admin.turn_off("toggled");
    println!("a change: {:?} ms", sdks.agree("a change", &names, &state(true, false)));
    fixture.kill(&service, "steady");
    println!("a kill: {:?} ms", sdks.agree("a kill", &names, &state(false, false)));
    let errors: Vec<_> = sdks.seen.iter().filter(|line| !line["error"].is_null()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn an_sdk_that_starts_during_an_outage_recovers_by_itself() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    fixture.flags(&["steady"]);
    let flag = fixture.admin.name("steady");
    let mut service = fixture.group.start("one");
    // Known tokens survive a restart while Unleash is unreachable; new ones cannot be determined.
    assert_eq!(ask(&service, "/api/client/features", Some(&fixture.backend)).status, 200);
    let unknown = fixture.admin.create_token("client", &["*"]);
    fixture.proxy.set(Mood::Down);
    service.stop();
    service.spawn();
    service.wait_until_ready();
    let known = ask(&service, "/api/client/features", Some(&fixture.backend));
    assert_eq!(super::names(&known), std::slice::from_ref(&flag));
    let undetermined = ask(&service, "/api/client/features", Some(&unknown));
    assert_eq!((undetermined.status, undetermined.header("retry-after")), (503, "5"), "{undetermined:?}");
    let mut sdks = Sdks::new();
    let sdk = |name: &str, token: &str| {
        json!({"name": name, "kind": "backend", "url": format!("{}/api", service.url), "token": token,
            "flags": [flag], "interval": 200})
    };
    sdks.node(stack, &[sdk("known", &fixture.backend), sdk("unknown", &unknown)]);
    let (api, folder) = (format!("{}/api", service.url), fixture.group.folder.path());
    sdks.python(stack, &[&api, &unknown, "1", &flag], folder);
    let mut names = vec!["unknown", "python"];
    if sdks.java(stack, &[&api, &unknown, "1", &flag], folder) {
        names.push("java");
    }
    let on = json!({&flag: true});
    sdks.agree("an SDK with a known token", &["known"], &on);
    sdks.agree("SDKs with an unknown token evaluate without flags", &names[1..], &json!({&flag: false}));
    sdks.wait("an SDK with an unknown token is asked to wait", |sdks| {
        !sdks.with("unknown", "warning").is_empty()
    });
    fixture.proxy.set(Mood::Good);
    sdks.agree("SDKs with an unknown token, after the outage", &names, &on);
    assert!(sdks.with("unknown", "error").is_empty(), "{:?}", sdks.seen);
}

#[test]
fn an_sdk_switches_modes_as_it_is_told() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    fixture.flags(&["steady"]);
    let flag = fixture.admin.name("steady");
    let prefers = fixture.group.clone().set("FLAGSTREAM_UNLEASH_API__STREAMING", "prefer").start("prefers");
    let polls = fixture.group.clone().set("FLAGSTREAM_UNLEASH_API__STREAMING", "off").start("polls");
    let sdk = |name: &str, url: &str, streaming: bool| {
        json!({"name": name, "kind": "backend", "url": format!("{url}/api"), "token": fixture.backend,
            "flags": [flag], "streaming": streaming})
    };
    let mut sdks = Sdks::new();
    sdks.node(stack, &[sdk("to-streaming", &prefers.url, false), sdk("to-polling", &polls.url, true)]);
    sdks.agree("both have the flags", &["to-streaming", "to-polling"], &json!({&flag: true}));
    sdks.wait("both have switched", |sdks| {
        let mode = |sdk: &str| sdks.with(sdk, "mode").last().map(|line| line["mode"].clone());
        mode("to-streaming") == Some(json!("streaming")) && mode("to-polling") == Some(json!("polling"))
    });
    fixture.admin.turn_off("steady");
    sdks.agree("both follow a change", &["to-streaming", "to-polling"], &json!({&flag: false}));
}
