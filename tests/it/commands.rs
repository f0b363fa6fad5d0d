//! The command line, as a user types it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{
    Flag, Flags, Group, Sender, Stack, TEST_TIMEOUT, TopicReader, Topics, command, flagstream, free_port,
    get, post, temporary_folder,
};

/// A command that prints until it is stopped.
struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(folder: &Path, arguments: &[&str], settings: Vec<(String, String)>) -> Self {
        let mut child = command(folder)
            .args(arguments)
            .envs(settings)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// The first line that contains `text`, printed already or yet to come.
    fn line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            self.seen.push(line.unwrap_or_else(|_| panic!("no line with {text:?} in {:#?}", self.seen)));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn settings<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn sample_flags(theme: &str) -> String {
    let variant = json!({
        "name": "only", "weight": 1000, "weightType": "variable", "stickiness": "default",
        "payload": {"type": "string", "value": theme},
    });
    json!({"version": 2, "features": [
        {"name": "theme", "enabled": true, "strategies": [{"name": "default"}], "variants": [variant]},
        {"name": "dark", "enabled": false, "strategies": []},
    ]})
    .to_string()
}

#[test]
fn dev_is_ready_soon_in_an_empty_folder() {
    let folder = temporary_folder();
    let listen = format!("127.0.0.1:{}", free_port());
    let started = Instant::now();
    let mut dev = Running::start(folder.path(), &["dev"], settings([("FLAGSTREAM_HTTP__LISTEN", &listen)]));
    let kafka = dev.line("kafka 127.0.0.1:").replace("kafka ", "");
    println!("ready after {:?}", started.elapsed());
    assert_eq!(dev.line("http "), format!("http http://{listen}"));
    dev.line("database ");
    // What a shell reads in another folder; here it need not be exported.
    let file = dev.line("In another folder first: ");
    let file = file
        .split_whitespace()
        .find(|word| word.ends_with("dev/env;"))
        .unwrap()
        .trim_end_matches(';')
        .to_owned();
    assert!(std::fs::read_to_string(file).unwrap().contains(&format!("KAFKA_BOOTSTRAP_SERVERS={kafka}\n")));
    // It evaluates sample requests and shows what came out.
    dev.line("TARGETING_MATCH");
    let (status, _) = get(&format!("http://{listen}/health/ready")).unwrap();
    assert_eq!(status, 200);
    let (_, health) = get(&format!("http://{listen}/health")).unwrap();
    assert!(health.contains(&kafka), "{health}");

    // Programs outside use the broker like any other.
    let asked = Sender::new(&kafka).send(
        "feature-flag-evaluation-requests",
        None,
        Some(b"user-1"),
        br#"{"request_id":"from-outside","flag_name":"theme-variant","default_value":"light","user_id":"user-1"}"#,
        None,
    );
    let event = TopicReader::open(&kafka, "feature-flag-events")
        .wait("the event", TEST_TIMEOUT, |event| event.json()["request_id"] == "from-outside");
    assert_eq!(event.position.0, asked.0);
    assert_eq!(event.json()["error_code"], Value::Null, "a sample flag");

    let request =
        ["request", "theme-variant", "--user", "u", "--default", "\"light\"", "--wait", "--output", "json"];
    let output = flagstream(folder.path(), &request, settings([]));
    assert!(output.status.success(), "{}", stderr(&output));
    let reply: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(reply["results"]["theme-variant"]["value"].is_string(), "{reply}");

    // The same over HTTP: the call that is shown, and the command, which finds the service by its configuration.
    let shown = json!({"flag_name": "theme-variant", "user_id": "user-456", "default_value": "light"});
    let answer = post(&format!("http://{listen}/api/v1/feature-flags/evaluate"), &shown);
    assert_eq!((answer.status, &answer.json()["reason"]), (200, &json!("TARGETING_MATCH")), "{answer:?}");
    TopicReader::open(&kafka, "feature-flag-events")
        .wait("its event", TEST_TIMEOUT, |event| event.json()["event_id"] == answer.json()["event_id"]);
    let evaluate = ["evaluate", "max-retries", "--user", "u", "--default", "3"];
    let output = flagstream(folder.path(), &evaluate, settings([]));
    assert_eq!(stdout(&output), "max-retries = 5  TARGETING_MATCH, variant five\n", "{}", stderr(&output));
    let nobody = ["evaluate", "max-retries", "--user", "u", "--url", "http://127.0.0.1:9"];
    let output = flagstream(folder.path(), &nobody, settings([]));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("http://127.0.0.1:9"), "{}", stderr(&output));

    // Every other command in the folder finds it.
    let told = |arguments: &[&str]| flagstream(folder.path(), arguments, settings([]));
    let replayed = told(&["replay", "--from", "1h"]);
    assert!(stdout(&replayed).contains("0 different"), "{}{}", stdout(&replayed), stderr(&replayed));
    let doctor = told(&["doctor"]);
    assert!(
        doctor.status.success() && stdout(&doctor).contains("is the embedded broker of `flagstream dev`"),
        "{}",
        stdout(&doctor)
    );
    let topics = told(&["topics", "check"]);
    assert!(
        topics.status.code() == Some(1) && stderr(&topics).contains("flagstream dev"),
        "{}",
        stderr(&topics)
    );
}

#[test]
fn dev_announces_a_changed_flag_file() {
    let folder = temporary_folder();
    let file = folder.path().join("flags.json");
    std::fs::write(&file, sample_flags("blue")).unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let arguments = ["dev", "--flags", "flags.json", "--quiet", "--rate", "0"];
    let mut dev = Running::start(folder.path(), &arguments, settings([("FLAGSTREAM_HTTP__LISTEN", &listen)]));
    let kafka = dev.line("kafka 127.0.0.1:").replace("kafka ", "");
    let mut updates = TopicReader::open(&kafka, "feature-flag-updates");
    // dev serves the file in two environments.
    let is_theme = |update: &Value| update["flag_name"] == "theme" && update["environment"] == "development";
    let created = updates.wait("its creation", TEST_TIMEOUT, |update| is_theme(&update.json())).json();
    assert_eq!(created["event_type"], "FEATURE_FLAG_CREATED");

    // A file that is broken for a while does no harm.
    std::fs::write(&file, "{").unwrap();
    std::fs::write(&file, sample_flags("green")).unwrap();
    let updated = updates
        .wait("the change", TEST_TIMEOUT, |update| {
            is_theme(&update.json()) && update.json()["event_type"] != "FEATURE_FLAG_CREATED"
        })
        .json();
    assert_eq!(updated["event_type"], "FEATURE_FLAG_UPDATED");
    assert_eq!(updated["previous_version"], created["version"]);
    assert!(updates.seen.iter().all(|update| update.json()["event_type"] != "FEATURE_FLAG_DELETED"));
}

#[test]
fn a_bad_configuration_names_the_setting_and_ends_with_2() {
    let folder = temporary_folder();
    let cases = [
        ("FLAGSTREAM_TOPICS__PARTITIONS", "many"),
        ("FLAGSTREAM_DELIVERY__MODE", "sometimes"),
        ("FLAGSTREAM_HTTP__LISTEN", "8082"),
        ("UNLEASH_REFRESH_INTERVAL", "soon"),
        ("FLAGSTREAM_NO_SUCH_THING", "1"),
        ("FLAGSTREAM_DELIVERY__NO_SUCH_THING", "1"),
    ];
    for (name, value) in cases {
        for arguments in [["run"].as_slice(), &["config", "show"], &["topics", "check"]] {
            let output = flagstream(folder.path(), arguments, settings([(name, value)]));
            assert_eq!(output.status.code(), Some(2), "{arguments:?} with {name}={value}");
            assert!(stderr(&output).contains(name), "{}", stderr(&output));
        }
    }
    // A URL needs a token.
    let output = flagstream(folder.path(), &["run"], settings([("UNLEASH_URL", "http://localhost:4242")]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("UNLEASH_API_TOKEN"), "{}", stderr(&output));
    // The file is named as well, and what is wrong with it.
    std::fs::write(folder.path().join("flagstream.toml"), "[kafka]\nno_such_thing = 1\n").unwrap();
    let output = flagstream(folder.path(), &["run"], settings([]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no_such_thing") && stderr(&output).contains("flagstream.toml"));
    let output = flagstream(folder.path(), &["run", "--config", "missing.toml"], settings([]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("missing.toml"), "{}", stderr(&output));
    let output = flagstream(folder.path(), &["no-such-command"], settings([]));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn config_show_masks_secrets_and_tells_where_values_come_from() {
    let folder = temporary_folder();
    std::fs::write(
        folder.path().join("flagstream.toml"),
        "[topics]\nrequests = \"from-file\"\nevents = \"lost\"\n",
    )
    .unwrap();
    let environment = [
        ("FEATURE_FLAG_KAFKA_TOPIC", "from-environment"),
        ("UNLEASH_URL", "http://unleash:4242/api"),
        ("UNLEASH_API_TOKEN", "*:development.very-secret"),
        ("FLAGSTREAM_KAFKA__CLIENT__SASL_PASSWORD", "very-secret"),
    ];
    let text = flagstream(folder.path(), &["config", "show"], settings(environment));
    assert!(text.status.success(), "{}", stderr(&text));
    let text = stdout(&text);
    let line =
        |path: &str| text.lines().find(|line| line.starts_with(path)).unwrap_or_else(|| panic!("{text}"));
    assert!(
        line("topics.requests").contains("from-file") && line("topics.requests").contains("flagstream.toml")
    );
    assert!(line("topics.events").contains("from-environment"));
    assert!(line("topics.events").contains("FEATURE_FLAG_KAFKA_TOPIC"));
    assert!(line("topics.partitions").contains("12") && line("topics.partitions").contains("default"));
    assert!(line("unleash.api_token").contains("***"), "{text}");
    assert!(!text.contains("very-secret"), "{text}");
    let all = flagstream(folder.path(), &["config", "show", "--output", "json"], settings(environment));
    let is_json = |line: &str| serde_json::from_str::<Value>(line).is_ok();
    assert!(stdout(&all).lines().all(is_json) && !stdout(&all).contains("very-secret"));
}

#[test]
fn topics_are_checked_and_applied() {
    let (stack, _shared) = Stack::shared();
    let folder = temporary_folder();
    let topics = Topics::named(stack);
    topics.will_be_made();
    let check = || flagstream(folder.path(), &["topics", "check"], topics.settings());
    let missing = check();
    assert_eq!(missing.status.code(), Some(1), "{}", stdout(&missing));
    for topic in
        [&topics.requests, &topics.events, &topics.definitions, &topics.updates, &topics.dead_letters]
    {
        assert!(stdout(&missing).contains(topic.as_str()), "{}", stdout(&missing));
    }
    // One was made by hand, and not as needed.
    topics.create(&topics.events, 1);
    let unfit = check();
    assert_eq!(unfit.status.code(), Some(1));
    let text = stdout(&unfit);
    let line = text.lines().find(|line| line.contains(&topics.events) && line.contains("partition"));
    assert!(line.is_some(), "{text}");
    // The service does not run on topics that do not fit, and says why.
    let applied = flagstream(folder.path(), &["topics", "apply"], topics.settings());
    println!("{}{}", stdout(&applied), stderr(&applied));

    let fresh = Topics::named(stack);
    fresh.will_be_made();
    let applied = flagstream(folder.path(), &["topics", "apply"], fresh.settings());
    assert!(applied.status.success(), "{}{}", stdout(&applied), stderr(&applied));
    let well = flagstream(folder.path(), &["topics", "check", "--output", "json"], fresh.settings());
    assert_eq!(well.status.code(), Some(0), "{}", stdout(&well));
    assert!(stdout(&well).lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    let again = flagstream(folder.path(), &["topics", "apply"], fresh.settings());
    assert!(again.status.success(), "applied twice: {}", stderr(&again));

    let nowhere = [("KAFKA_BOOTSTRAP_SERVERS".to_owned(), format!("127.0.0.1:{}", free_port()))];
    let nobody = flagstream(folder.path(), &["topics", "check"], nowhere);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("127.0.0.1"), "{}", stderr(&nobody));
}

#[test]
fn a_request_waits_for_its_reply_and_tail_shows_what_happened() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack);
    let theme = Flag::on("theme").where_in("tier", &["premium"]);
    Flags::new(&group.topics).set("production", theme.variant("dark", Some(("string", "dark"))));
    // The default topic of `--wait` is the allowed prefix itself.
    group.topics.create(&group.topics.replies, 1);
    let _service = group.start("one");
    let request = |arguments: &[&str]| {
        let mut all = vec!["request", "--environment", "production", "--user", "user-1"];
        all.extend(arguments);
        flagstream(group.folder.path(), &all, group.topics.settings())
    };
    let context = ["theme", "--context", r#"{"tier": "premium"}"#, "--default", "\"light\""];
    let asked = request(&[&context[..], &["--wait", "--output", "json"]].concat());
    assert!(asked.status.success(), "{}", stderr(&asked));
    let reply: Value = serde_json::from_str(&stdout(&asked)).unwrap();
    assert_eq!(reply["results"]["theme"]["value"], "dark", "{reply}");
    let text = request(&[&context[..], &["--wait"]].concat());
    assert!(stdout(&text).contains("theme") && stdout(&text).contains("dark"), "{}", stdout(&text));
    let many = request(&["theme", "unknown", "--wait", "--output", "json"]);
    let reply: Value = serde_json::from_str(&stdout(&many)).unwrap();
    assert_eq!(reply["results"].as_object().unwrap().len(), 2, "{reply}");
    assert!(request(&["theme"]).status.success(), "without waiting");

    let tail = |arguments: &[&str]| {
        let all = [&["tail", "--from-beginning"], arguments].concat();
        let output = flagstream(group.folder.path(), &all, group.topics.settings());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let events = tail(&["-n", "5", "--output", "json"]);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 5);
    assert!(events.iter().all(|event| event.to_string().contains("FEATURE_FLAG_EVALUATED")));
    assert!(tail(&["--topic", "requests", "-n", "1"]).contains("theme"));
    assert!(tail(&["--topic", &group.topics.definitions, "-n", "1"]).contains("theme"));

    assert!(tail(&["-n", "1", "--flag", "unknown"]).contains("FLAG_NOT_FOUND"));
    assert!(tail(&["-n", "1", "--topic", "requests", "--contains", "flag_names"]).contains("theme, unknown"));
    let since = flagstream(
        group.folder.path(),
        &["tail", "--since", "1h", "-n", "1", "--type", "FLAG_NOT_FOUND", "--user", "user-1"],
        group.topics.settings(),
    );
    assert!(stdout(&since).contains("unknown"), "{}", stderr(&since));

    let wrong = request(&["theme", "--context", "[1]"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    assert!(stderr(&wrong).contains("context"), "{}", stderr(&wrong));
    let silent = Topics::apply(stack, group.folder.path());
    silent.create(&silent.replies, 1);
    let unanswered = flagstream(
        group.folder.path(),
        &["request", "theme", "--user", "u", "--wait", "--timeout", "0.5"],
        silent.settings(),
    );
    assert_eq!(unanswered.status.code(), Some(1), "nobody answers: {}", stderr(&unanswered));
}

#[test]
fn evaluate_reads_a_file_of_flags() {
    let folder = temporary_folder();
    std::fs::write(folder.path().join("flags.json"), sample_flags("blue")).unwrap();
    std::fs::write(folder.path().join("broken.json"), "{").unwrap();
    let evaluate = |arguments: &[&str]| {
        let all = [&["evaluate", "--user", "u"], arguments].concat();
        flagstream(folder.path(), &all, settings([]))
    };
    let output = evaluate(&["theme", "--default", "\"light\"", "--flags", "flags.json", "--output", "json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let result: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&result["value"], &result["reason"]),
        (&json!("blue"), &json!("TARGETING_MATCH")),
        "{result}"
    );
    let output = evaluate(&["dark", "--flags", "flags.json"]);
    assert!(output.status.success() && stdout(&output).contains("false"), "{}", stdout(&output));
    let output = evaluate(&["unknown", "--flags", "flags.json", "--output", "json"]);
    let result: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(result["error_code"], "FLAG_NOT_FOUND", "{result}");

    for (arguments, named) in [
        (["theme", "--flags", "missing.json"].as_slice(), "missing.json"),
        (&["theme", "--flags", "broken.json"], "broken.json"),
    ] {
        let output = evaluate(arguments);
        assert!(!output.status.success());
        assert!(stderr(&output).contains(named), "{}", stderr(&output));
    }
    let output = evaluate(&["theme", "--flags", "flags.json", "--context", "{"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn completions_and_manual_know_every_command() {
    let folder = temporary_folder();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = flagstream(folder.path(), &["completions", shell], settings([]));
        assert!(output.status.success() && stdout(&output).contains("dead-letters"), "{shell}");
    }
    let page = stdout(&flagstream(folder.path(), &["man"], settings([])));
    assert!(page.starts_with(".ie") && page.contains("dead\\-letters"), "{page}");
    let written = flagstream(folder.path(), &["man", "pages"], settings([]));
    assert!(written.status.success(), "{}", stderr(&written));
    let replay = std::fs::read_to_string(folder.path().join("pages/flagstream-replay.1")).unwrap();
    assert!(replay.contains("as\\-of"), "{replay}");
}
