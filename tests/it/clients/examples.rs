//! Each folder of `examples/`, as its README says to run it.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{
    Database, Flags, Group, Redis, Sender, Service, Stack, TEST_TIMEOUT, post, temporary_folder, wait_until,
};

use super::{folder, go, group, python, run, skipped, start, told};

/// Ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A copy of an example for Node, with the packages that it names.
fn installed(stack: &Stack, example: &str) -> tempfile::TempDir {
    let copy = temporary_folder();
    let modules = copy.path().join("node_modules");
    let source = folder("examples").join(example);
    for file in std::fs::read_dir(&source).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let package = std::fs::read_to_string(source.join("package.json")).unwrap();
    let package: Value = serde_json::from_str(&package).unwrap();
    for (name, version) in package["dependencies"].as_object().unwrap() {
        let link = modules.join(name);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        let local = version.as_str().unwrap().strip_prefix("file:");
        let target =
            local.map_or_else(|| Path::new(&stack.node_modules).join(name), |path| source.join(path));
        symlink(target.canonicalize().unwrap(), link).unwrap();
    }
    copy
}

#[test]
fn fastapi_and_express_have_flags_in_every_request() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    let service = start(&group, &[]);
    let mut fastapi = python(stack);
    fastapi.env("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1").current_dir(folder("examples/fastapi"));
    fastapi.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]);
    let said = run(told(&mut fastapi, &service, &group.topics));
    assert!(said.contains("2 passed"), "{said}");

    let express = installed(stack, "express");
    let mut npm = Command::new("npm");
    npm.args(["test", "--silent"]).current_dir(express.path());
    let said = run(told(&mut npm, &service, &group.topics));
    assert!(said.contains("# pass 2"), "{said}");
}

#[test]
fn openfeature_says_the_same_in_every_language() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    let service = start(&group, &[]);
    let node = installed(stack, "openfeature/node");
    let mut commands = vec![python(stack), Command::new("node")];
    commands[0].arg("flags.py").current_dir(folder("examples/openfeature/python"));
    commands[1].arg("flags.js").current_dir(node.path());
    if let Some(mut go) = go(stack, "examples/openfeature/go") {
        go.args(["run", "."]).current_dir(folder("examples/openfeature/go"));
        commands.push(go);
    }
    for in_process in [false, true] {
        let mut rust = Command::new(env!("CARGO"));
        rust.args(["run", "--quiet", "--locked", "--offline", "--example", "openfeature"]);
        rust.current_dir(folder("")).env("UNLEASH_ENVIRONMENT", "production");
        if in_process {
            rust.env("FLAGSTREAM_IN_PROCESS", "1");
        }
        commands.push(rust);
    }
    for command in &mut commands {
        let said = run(told(command, &service, &group.topics)).to_lowercase();
        let expected = "premium true\ntheme dark\nmax-retries 5\nfirst region us\nunknown flag_not_found\n";
        assert_eq!(said, expected, "{command:?}");
    }
}

#[test]
fn a_service_in_java_asks_through_kafka() {
    let (stack, _shared) = Stack::shared();
    if stack.kafka_jars.is_empty() {
        return skipped("examples/request-reply", "Kafka's jars are in a container");
    }
    if Command::new("javac").arg("-version").output().is_err() {
        return skipped("examples/request-reply", "Java has no compiler here");
    }
    let group = group(stack);
    let service = start(&group, &[]);
    let mut java = Command::new("java");
    java.args(["-cp", &format!("{}/*", stack.kafka_jars), "FlagRequests.java", "ada", "grace"])
        .env("REPLY_TOPIC", group.topics.reply_topic("java"))
        .current_dir(folder("examples/request-reply"));
    let said = run(told(&mut java, &service, &group.topics));
    assert_eq!(said, "ada theme=dark max-retries=5\ngrace theme=dark max-retries=5\n");
}

fn evaluate(service: &Service, flag: &str, user: &str, default: Value) {
    let body =
        json!({"flag_name": flag, "user_id": user, "default_value": default, "environment": "production"});
    let answer = post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn analysts_count_each_evaluation_once() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = group(stack).set("DATABASE_URL", &database.url);
    let service = start(&group, &[]);
    let ask = |round: i64| {
        for user in ["ada", "grace", "mary"] {
            evaluate(&service, "theme", user, json!("light"));
        }
        let sender = Sender::new(&group.topics.kafka);
        let request =
            json!({"flag_names": ["off", "unknown"], "user_id": "ada", "environment": "production"});
        let request = request.to_string();
        sender.send(&group.topics.requests, Some(0), Some(b"ada"), request.as_bytes(), None);
        wait_until("all audited", TEST_TIMEOUT, || database.audited() == round * 5);
    };
    let counts = group.folder.path().join("counts.json");
    let count = || {
        let mut stream = python(stack);
        stream.args(["stream.py", "--until-end"]).env("COUNTS_FILE", &counts);
        run(told(stream.current_dir(folder("examples/analytics")), &service, &group.topics))
    };
    let expected = |times: u32| {
        let line = |what: &str, each: u32| format!("production {what} {}\n", each * times);
        let off = line("off false DEFAULT", 1);
        off + &line("theme dark TARGETING_MATCH", 3) + &line("unknown false DEFAULT", 1)
    };
    ask(1);
    assert_eq!(count(), expected(1));
    ask(2);
    assert_eq!(count(), expected(2), "it goes on where it was");
    assert_eq!(count(), expected(2));

    let mut report = python(stack);
    report.arg("report.py").env("DATABASE_URL", &database.url).current_dir(folder("examples/analytics"));
    let said = run(&mut report);
    assert!(said.contains("\nproduction theme dark 6 3\n"), "{said}");
    assert!(said.contains("\nproduction off DEFAULT 2 100.0\n"), "{said}");
}

#[test]
fn a_cache_of_services_loses_what_a_change_has_overtaken() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack);
    let redis = Redis::database(stack);
    let mut flags = Flags::new(&group.topics);
    let value = |version: u64| json!({"enabled": true, "flag_version": version}).to_string();
    let old = flags.set("production", crate::harness::Flag::on("f"));
    let kept = [
        ("ff_eval:production:f2:u", value(old)),
        ("ff_eval:staging:f:u", value(old)),
        ("ff_eval:production:f:newer", value(old + 1)),
        ("ff_eval:production:%2A:u", value(old)),
    ];
    let gone = [("ff_eval:production:f:u", value(old)), ("ff_eval:production:f:bare", "{}".to_owned())];
    let odd =
        [("ff_eval:production:%25%3A*?[f]:u", value(old)), ("ff_eval:production:%25%3A**[f]:u", value(old))];
    for (key, value) in kept.iter().chain(&gone).chain(&odd) {
        redis.set(key, value);
    }
    let version = flags.change("production", crate::harness::Flag::on("f"));
    let odd_version = flags.change("production", crate::harness::Flag::on("%:*?[f]"));

    let mut command = python(stack);
    command.arg("invalidate.py").current_dir(folder("examples/cache-invalidator"));
    command.env("REDIS_URL", &redis.url).env("GROUP_ID", &group.topics.prefix).envs(group.topics.settings());
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), format!("production/f version {version}: 2 keys removed"));
    assert_eq!(lines.next().unwrap(), format!("production/%:*?[f] version {odd_version}: 1 keys removed"));
    for (key, value) in kept.iter().chain(&odd[1..]) {
        assert_eq!(redis.get(key), Some(serde_json::from_str(value).unwrap()), "{key}");
    }
}
