//! The clients for Python, Node, Go and Java, each with its own tests, against a service of its own; the providers for Rust; and
//! the examples.

mod control;
mod examples;
mod faults;
mod java;
mod openapi;
mod packages;
mod rust;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{
    Database, Flag, Flags, Group, Redis, Service, Stack, TEST_TIMEOUT, Topics, temporary_folder, wait_until,
};

/// Variants of the flags of experiments.
const VARIANTS: &[(&str, u32)] = &[("dark", 500), ("light", 500)];

/// A folder of the repository.
fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Starts a service with the flags of `clients/vectors.json` and `more` in force.
fn start(group: &Group, more: &[Flag]) -> Service {
    let vectors = std::fs::read_to_string(folder("clients/vectors.json")).unwrap();
    let vectors: Value = serde_json::from_str(&vectors).unwrap();
    let listed = vectors["flags"].as_array().unwrap().iter().map(|body| {
        let name = body["name"].as_str().unwrap();
        Flag::on(name).body(body.clone())
    });
    let mut flags = Flags::new(&group.topics);
    let version = listed.chain(more.iter().cloned()).map(|flag| flags.set("production", flag)).max().unwrap();
    let service = group.start("one");
    let in_force = || service.metrics().sum("flagstream_store_version", &[]) >= version as f64;
    wait_until("all flags in force", TEST_TIMEOUT, in_force);
    service
}

/// A group whose callers may listen to changes, and kill flags.
fn group(stack: &Stack) -> Group {
    Group::new(stack).set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write")
}

/// A group with a cache in Redis, and a database for experiments.
fn with_experiments(stack: &Stack, database: &Database, redis: &Redis) -> Group {
    group(stack)
        .set("DATABASE_URL", &database.url)
        .set("REDIS_URL", &redis.url)
        .set("UNLEASH_ENVIRONMENT", "production")
}

/// Sets the environment variables with the addresses of the service and its Kafka.
fn told<'c>(command: &'c mut Command, service: &Service, topics: &Topics) -> &'c mut Command {
    command.env("FLAGSTREAM_URL", &service.url).envs(topics.settings())
}

fn python(stack: &Stack) -> Command {
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", format!("{}:{}", stack.python_path, folder("clients/python/src").display()))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// `go`, unless the machine has none; then the test says that it was skipped.
fn go(stack: &Stack, of: &str) -> Option<Command> {
    if stack.go_modules.is_empty() {
        skipped(of, "go is not installed");
        return None;
    }
    let mut command = Command::new("go");
    // As the stack's other packages: what the lock file names, fetched before the tests.
    command.env("GOFLAGS", "-mod=readonly").env("GOTOOLCHAIN", "local").env("GOMODCACHE", &stack.go_modules);
    Some(command)
}

/// Prints past the test runner, which shows the output of failing tests only.
fn skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "{what}: skipped: {why}");
}

/// Runs to the end, which must be a good one; what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

#[test]
fn the_client_for_python_passes_its_tests() {
    let (stack, _shared) = Stack::shared();
    let (database, redis) = (Database::create(stack), Redis::database(stack));
    let group = with_experiments(stack, &database, &redis);
    let experiment = Flag::experiment("python-experiment", VARIANTS);
    let service = start(&group, &[Flag::on("killed-in-python"), experiment]);
    let mut command = python(stack);
    command
        .env("DATABASE_URL", &database.url)
        .env("CLIENT_REDIS_URL", &redis.url)
        .env("REPLY_TOPIC", group.topics.reply_topic("python"));
    // Plugins of other packages that tests use.
    command.env("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1");
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).current_dir(folder("clients/python"));
    let said = run(told(&mut command, &service, &group.topics));
    assert!(said.contains(" passed") && !said.contains("skipped"), "{said}");
}

#[test]
fn the_client_for_python_receives_changes_and_replies_in_avro() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack).in_avro(&stack.registry);
    let service = start(&group, &[Flag::on("killed-in-python")]);
    let mut command = python(stack);
    command
        .env("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        .env("SCHEMA_REGISTRY_URL", &stack.registry)
        .env("REPLY_TOPIC", group.topics.reply_topic("python"));
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "updates_topic or in_avro"]);
    let command = command.current_dir(folder("clients/python"));
    let said = run(told(command, &service, &group.topics));
    assert!(said.contains(" passed") && !said.contains("skipped"), "{said}");
}

/// A copy of the client for Node, with what its tests read, and the packages that they use.
fn node_client(stack: &Stack) -> tempfile::TempDir {
    let copy = temporary_folder();
    let clients = copy.path().join("clients");
    std::fs::create_dir(&clients).unwrap();
    run(Command::new("cp")
        .arg("-r")
        .args(["clients/node", "clients/vectors.json"].map(folder))
        .arg(&clients));
    run(Command::new("cp").arg("-r").arg(folder("schemas")).arg(copy.path()));
    let modules = clients.join("node/node_modules");
    let _ = std::fs::remove_dir_all(&modules);
    std::os::unix::fs::symlink(&stack.node_modules, modules).unwrap();
    copy
}

#[test]
fn the_client_for_node_passes_its_tests() {
    let (stack, _shared) = Stack::shared();
    let (database, redis) = (Database::create(stack), Redis::database(stack));
    let group = with_experiments(stack, &database, &redis);
    let flags = [Flag::on("killed-in-node"), Flag::experiment("node-experiment", VARIANTS)];
    let service = start(&group, &flags);
    let (_avro_group, _avro, avro) = java::in_avro(stack, &flags);
    let client = node_client(stack);
    let package = client.path().join("clients/node");
    let mut command = Command::new("npm");
    command.args(["test", "--silent"]).current_dir(&package);
    command
        .env("CLIENT_REDIS_URL", &redis.url)
        .env("REPLY_TOPIC", group.topics.reply_topic("node"))
        .envs(avro);
    let said = run(told(&mut command, &service, &group.topics));
    assert!(said.contains("# fail 0") && said.contains("# skipped 0"), "{said}");

    let compiler = format!("{}/typescript/bin/tsc", stack.node_modules);
    run(Command::new("node").args([&compiler, "-p", "test/types.json"]).current_dir(&package));
}

#[test]
fn the_client_for_go_passes_its_tests() {
    let (stack, _shared) = Stack::shared();
    let Some(mut command) = go(stack, "clients/go") else { return };
    let (database, redis) = (Database::create(stack), Redis::database(stack));
    let group = with_experiments(stack, &database, &redis);
    let service = start(&group, &[Flag::on("killed-in-go"), Flag::experiment("go-experiment", VARIANTS)]);
    command.args(["test", "-count=1", "-v", "./..."]).current_dir(folder("clients/go"));
    command.env("CLIENT_REDIS_URL", &redis.url);
    let said = run(told(&mut command, &service, &group.topics));
    assert!(said.contains("--- PASS: TestLive") && !said.contains("--- SKIP"), "{said}");

    // A module of its own, so that the client needs no other modules.
    let said = run(command.current_dir(folder("clients/go/openfeature")));
    assert!(said.contains("--- PASS: Example") && !said.contains("--- SKIP"), "{said}");
}
