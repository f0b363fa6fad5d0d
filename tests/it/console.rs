//! The console in a browser, against real services. One browser looks at all pages (`tests/it/console/main.mjs`); this
//! side starts the services and does to them what the browser asks for.
//!
//! `FLAGSTREAM_TEST_SCREENSHOTS=FOLDER` writes the pictures of docs/console.md; `FLAGSTREAM_TEST_CONSOLE=live,audit` runs
//! some of the steps. `FLAGSTREAM_CONSOLE__DIRECTORY=FOLDER` tests pages that were changed after the build.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{
    Cluster, Database, Flag, Flags, Group, HEALTH_TOKEN, PROMPT, Sender, Service, Stack, TEST_TIMEOUT,
    TopicReader, call, flagstream, programs, wait_for, wait_until,
};

const ENVIRONMENT: &str = "production";
/// Users for whom all flags are evaluated.
const USERS: i64 = 300;

/// Prints past the test runner, which shows the output of failing tests only.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "console: {text}");
}

struct Fixture {
    /// The test's own broker, which it stops. `None`: the shared one, which it does not.
    cluster: Option<Cluster>,
    kafka: String,
    group: Group,
    database: Database,
    services: Vec<Service>,
    frozen: Option<usize>,
}

impl Fixture {
    fn new(stack: &Stack) -> Self {
        let cluster = Cluster::is_possible(stack).then(|| Cluster::single(stack, PROMPT));
        let kafka = cluster.as_ref().map_or_else(|| stack.kafka.clone(), Cluster::kafka);
        let database = Database::create(stack);
        let mut group = Group::new(&stack.with_kafka(kafka.clone()))
            .set("DATABASE_URL", &database.url)
            .set("REDIS_URL", &stack.redis)
            .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
            .set("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "true");
        if let Ok(directory) = std::env::var("FLAGSTREAM_CONSOLE__DIRECTORY") {
            group = group.set("FLAGSTREAM_CONSOLE__DIRECTORY", &directory);
        }
        Flags::new(&group.topics)
            .set(ENVIRONMENT, Flag::experiment("theme", &[("dark", 500), ("light", 500)]));
        let services = ["one", "two", "three"].map(|name| group.start(name)).into();
        let fixture = Self { cluster, kafka, group, database, services, frozen: None };
        fixture.fill();
        fixture
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let bearer = format!("Bearer {HEALTH_TOKEN}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("x-change-reason", "as the roadmap says"),
        ];
        let url = format!("{}{path}", self.services[0].url);
        let answer = call(method, &url, &headers, body.to_string().as_bytes());
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap_or_default()
    }

    /// Tokens, flags, evaluations of many users, and an experiment.
    fn fill(&self) {
        for (name, scopes) in [("shop", json!(["evaluate", "track"])), ("dashboards", json!(["read"]))] {
            let token =
                json!({"name": name, "scopes": scopes, "environments": [ENVIRONMENT], "expires_in": "90d"});
            self.call("POST", "/api/v1/tokens", &token);
        }
        let flags = [
            json!({"name": "checkout", "description": "The new checkout with saved cards", "is_enabled": true,
                "owner": "payments", "tags": ["checkout"], "rollout_percentage": "100"}),
            json!({"name": "search-v2", "description": "Ranking with vectors", "is_enabled": true, "owner": "search",
                "rollout_percentage": "25"}),
            json!({"name": "dark-mode", "description": "Dark colours", "is_enabled": false, "owner": "web"}),
            json!({"name": "one-click", "description": "Buy with one click", "is_enabled": true, "owner": "payments",
                "depends_on": ["checkout"]}),
        ];
        for mut flag in flags {
            flag["environment"] = json!(ENVIRONMENT);
            self.call("POST", "/api/v1/feature-flags", &flag);
        }
        let experiment = json!({"name": "theme", "environment": ENVIRONMENT, "control": "light",
            "hypothesis": "A dark theme keeps evening visitors longer",
            "metrics": [{"name": "purchases"}],
            "dimensions": [{"name": "plan"}, {"name": "payment", "source": "conversion"}]});
        wait_for("the experiment's flag is in force", TEST_TIMEOUT, || {
            let bearer = format!("Bearer {HEALTH_TOKEN}");
            let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
            let url = format!("{}/api/v1/experiments", self.services[0].url);
            let begun = call("POST", &url, &headers, experiment.to_string().as_bytes());
            assert!(begun.status != 422, "{begun:?}");
            (begun.status == 201).then_some(())
        });
        // An effect needs 100 users of each variant; a second round of users adds a second point to the plot.
        self.visit(0..USERS - USERS / 5);
        self.wait_for_points(1);
        self.visit(USERS - USERS / 5..USERS);
        for _ in 0..7 {
            let body =
                json!({"flag_name": "search-v2", "user_id": "searched-user", "environment": ENVIRONMENT});
            self.call("POST", "/api/v1/feature-flags/evaluate", &body);
        }
        wait_until("all rows", TEST_TIMEOUT, || self.database.audited() >= USERS * 5 + 7);
        self.wait_for_points(2);
    }

    /// Evaluates all flags for these users, and reports a conversion of every second.
    fn visit(&self, users: std::ops::Range<i64>) {
        let names = ["checkout", "search-v2", "dark-mode", "one-click", "theme"];
        let mut conversions = Vec::new();
        for number in users {
            let user = format!("user-{number}");
            let plan = if number % 3 == 0 { "gold" } else { "silver" };
            let body = json!({"flag_names": names, "user_id": user, "environment": ENVIRONMENT,
                "context": {"plan": plan, "country": "ES"}});
            self.call("POST", "/api/v1/feature-flags/evaluate/bulk", &body);
            if number % 2 == 0 {
                let now = chrono::Utc::now().to_rfc3339();
                let payment = if number % 4 == 0 { "visa" } else { "cash" };
                conversions.push(json!({"user_id": user, "metric": "purchases", "occurred_at": now,
                    "event_id": user, "metadata": {"payment": payment}}));
            }
        }
        self.call(
            "POST",
            &format!("/api/v1/experiments/theme/conversions?environment={ENVIRONMENT}"),
            &json!(conversions),
        );
    }

    /// Waits until the experiment's history has this many points with an effect.
    fn wait_for_points(&self, count: usize) {
        let path = format!("/api/v1/experiments/theme/history?environment={ENVIRONMENT}");
        wait_until("points of the experiment", TEST_TIMEOUT, || {
            let history = self.call("GET", &path, &Value::Null);
            let points = history["points"].as_array().into_iter().flatten();
            let with_effect = |point: &&Value| {
                let comparisons = point["comparisons"].as_array().into_iter().flatten();
                comparisons.filter(|it| it["relative"].is_object()).count() > 0
            };
            points.filter(with_effect).count() >= count
        });
    }

    /// Does what the browser asks for, and returns the answer.
    fn act(&mut self, what: &str, argument: &str) -> String {
        match what {
            "replay" => self.replay(argument),
            "dead-letter" => {
                let wrong = br#"{"request_id":"mended","flag_name":"search-v2","user_id":["u-1"],"environment":"production"}"#;
                Sender::new(&self.kafka).send(&self.group.topics.requests, None, Some(b"u-1"), wrong, None);
                let mut dead = TopicReader::open(&self.kafka, &self.group.topics.dead_letters);
                dead.until("the dead letter", TEST_TIMEOUT, |seen| !seen.is_empty());
                String::new()
            }
            "event-of" => {
                let mut events = TopicReader::open(&self.kafka, &self.group.topics.events);
                let event =
                    events.wait("the event", TEST_TIMEOUT, |event| event.json()["request_id"] == argument);
                event.json()["user_id"].to_string()
            }
            "freeze" => {
                let leader = self.call("GET", "/api/v1/cluster", &Value::Null)["leader"].clone();
                let index = [2, 1].into_iter().find(|index| leader != self.services[*index].name.as_str());
                self.frozen = index;
                let service = &self.services[index.unwrap()];
                service.freeze();
                self.call(
                    "POST",
                    &format!("/api/v1/feature-flags/dark-mode/kill?environment={ENVIRONMENT}"),
                    &json!({"reason": "contrast of links"}),
                );
                self.call(
                    "POST",
                    "/api/v1/feature-flags",
                    &json!({"name": "seen-late", "environment": ENVIRONMENT, "is_enabled": true}),
                );
                service.name.clone()
            }
            "thaw" => {
                self.services[self.frozen.take().unwrap()].thaw();
                String::new()
            }
            "stop-broker" => {
                self.cluster.as_mut().unwrap().kill(1);
                String::new()
            }
            "start-broker" => {
                let cluster = self.cluster.as_mut().unwrap();
                cluster.spawn(1);
                cluster.wait_until_complete();
                String::new()
            }
            _ => panic!("unknown: {what}"),
        }
    }

    /// Report of the command about a proposed definition of `checkout`.
    fn replay(&self, definition: &str) -> String {
        std::fs::write(self.group.folder.path().join("proposed.json"), definition).unwrap();
        let arguments =
            ["replay", "--from", "1h", "--with", "proposed.json", "--flag", "checkout", "--output", "json"];
        let output = flagstream(self.group.folder.path(), &arguments, self.group.settings());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Runs the browser to its end; its last words if it failed.
fn run(fixture: &mut Fixture, settings: &Value) -> Result<(), String> {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/console/main.mjs");
    let steps = std::env::var("FLAGSTREAM_TEST_CONSOLE").unwrap_or_default();
    let mut child = Command::new("node")
        .arg(driver)
        .args(steps.split(',').filter(|step| !step.is_empty()))
        .env("CONSOLE_TEST", settings.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut answers: ChildStdin = child.stdin.take().unwrap();
    let asked = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in asked.map(Result::unwrap) {
        if let Some(asked) = line.strip_prefix("ask ") {
            let (what, argument) = asked.split_once(' ').unwrap_or((asked, ""));
            let answer = fixture.act(what, argument);
            writeln!(answers, "done {answer}").unwrap();
        } else {
            say(line.strip_prefix("say ").unwrap_or(&line));
        }
    }
    let status = child.wait().unwrap();
    if status.success() { Ok(()) } else { Err(format!("{status}")) }
}

#[test]
fn every_page_works_in_a_browser_and_tells_what_happens() {
    let (stack, _shared) = Stack::shared();
    let Some(browser) = programs::browser() else {
        say("skipped: neither chromium nor google-chrome is installed");
        return;
    };
    let mut fixture = Fixture::new(stack);
    let settings = json!({
        "url": fixture.services[0].url, "token": HEALTH_TOKEN, "chromium": browser, "node_modules": stack.node_modules,
        "experiment": format!("{ENVIRONMENT}/theme"), "broker": fixture.cluster.is_some(),
        "folder": env!("CARGO_TARGET_TMPDIR"), "screenshots": std::env::var("FLAGSTREAM_TEST_SCREENSHOTS").ok(),
    });
    if let Err(status) = run(&mut fixture, &settings) {
        panic!("the browser found faults ({status}); they are above");
    }
}

#[test]
fn the_types_of_the_pages_are_right() {
    let stack = Stack::get();
    let compiler = format!("{}/typescript/bin/tsc", stack.node_modules);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
    let output =
        Command::new("node").args([&compiler, "-p", "tsconfig.json"]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
