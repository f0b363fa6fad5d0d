//! Work of operators: observing, creating topics at the start, upgrading, restoring backups.

mod analytics;
mod restore;
mod upgrade;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Database, Flag, Flags, Group, Sender, Stack, TEST_TIMEOUT, Topics, call, command, flagstream, free_port,
    get, post, temporary_folder, wait_for, wait_until,
};

const EVALUATE: &str = "/api/v1/feature-flags/evaluate";

/// Series of a metric: the text between its braces.
fn series(url: &str, metric: &str) -> BTreeSet<String> {
    let (_, text) = get(&format!("{url}/metrics")).unwrap_or_default();
    let series =
        text.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{')?.split_once('}'));
    series.map(|(labels, _)| labels.to_owned()).collect()
}

#[test]
fn calls_clients_and_chosen_flags_are_measured() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = Group::new(stack)
        .set("DATABASE_URL", &database.url)
        .set("FLAGSTREAM_METRICS__FLAGS", "checkout-*")
        .set("FLAGSTREAM_KAFKA__CLIENT__STATISTICS_INTERVAL_MS", "200");
    let mut flags = Flags::new(&group.topics);
    flags.set("production", Flag::on("checkout-new"));
    flags.set("production", Flag::on("other"));
    let service = group.start("a");
    let ask = |flag: &str| json!({"flag_name": flag, "user_id": "u", "environment": "production"});
    wait_until("the flags are in force", TEST_TIMEOUT, || {
        post(&format!("{}{EVALUATE}", service.url), &ask("checkout-new")).json()["enabled"] == json!(true)
    });
    let before = service.metrics().sum("flagstream_flag_evaluations_total", &[("flag", "checkout-new")]);
    for flag in ["checkout-new", "other", "checkout-new"] {
        assert_eq!(post(&format!("{}{EVALUATE}", service.url), &ask(flag)).status, 200);
    }
    assert_eq!(
        call("GET", &format!("{}/no/such/{}", service.url, rand::random::<u32>()), &[], b"").status,
        404
    );
    assert_eq!(post(&format!("{}{EVALUATE}", service.url), &json!({})).status, 422);

    let metrics = service.metrics();
    let calls = |labels: &[(&str, &str)]| metrics.sum("flagstream_http_request_seconds_count", labels);
    assert!(calls(&[("method", "POST"), ("route", EVALUATE), ("status", "2xx")]) >= 4.0);
    assert_eq!(calls(&[("method", "POST"), ("route", EVALUATE), ("status", "4xx")]), 1.0);
    assert_eq!(calls(&[("route", "(none)"), ("status", "4xx")]), 1.0);
    let chosen = [("flag", "checkout-new"), ("enabled", "true"), ("environment", "production")];
    assert_eq!(metrics.sum("flagstream_flag_evaluations_total", &chosen) - before, 2.0);
    assert_eq!(metrics.sum("flagstream_flag_evaluations_total", &[("flag", "other")]), 0.0);
    assert!(metrics.sum("flagstream_publish_spool_limit_bytes", &[]) > 0.0);

    // Consumers and producers report, and the members of the groups have had a rebalance.
    let expected = ["evaluator-0", "sink", "api"];
    wait_until("the clients report", TEST_TIMEOUT, || {
        let found = series(&service.url, "flagstream_kafka_rtt_seconds");
        expected
            .iter()
            .all(|client| found.iter().any(|labels| labels.contains(&format!("client=\"{client}\""))))
    });
    let rebalances =
        || service.metrics().sum("flagstream_kafka_rebalances_total", &[("client", "evaluator-0")]);
    wait_until("a rebalance is counted", TEST_TIMEOUT, || rebalances() >= 1.0);
}

#[test]
fn an_evaluation_that_fails_is_logged_with_its_context_and_without_what_is_private() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack).set("FLAGSTREAM_PRIVACY__DROP_ATTRIBUTES", "secret");
    Flags::new(&group.topics).set("production", Flag::on("theme").variant("dark", Some(("string", "dark"))));
    let service = group.start("a");
    let request = json!({"request_id": "r-77", "flag_name": "theme", "value_type": "integer", "default_value": 1,
        "user_id": "u-1", "environment": "production", "context": {"region": "us", "secret": "hidden-value"}});
    let (partition, offset) = Sender::new(&group.topics.kafka).send(
        &group.topics.requests,
        None,
        Some(b"u-1"),
        request.to_string().as_bytes(),
        None,
    );
    let line = wait_for("the line", TEST_TIMEOUT, || {
        let log = service.log();
        log.lines().find(|line| line.contains("cannot be evaluated as requested")).map(str::to_owned)
    });
    let place = format!("{}/{partition}@{offset}", group.topics.requests);
    for part in ["theme", "TYPE_MISMATCH", "u-1", "region", "r-77", &place] {
        assert!(line.contains(part), "{part} is missing: {line}");
    }
    assert!(!service.log().contains("hidden-value"), "{line}");
}

#[test]
fn a_service_creates_its_topics_at_the_start() {
    let (stack, _shared) = Stack::shared();
    let (folder, topics) = (temporary_folder(), Topics::named(stack));
    topics.will_be_made();
    let port = free_port();
    let mut service = command(folder.path())
        .args(["run", "--apply-topics", "--roles", "evaluator"])
        .envs(topics.settings())
        .env("FLAGSTREAM_HTTP__LISTEN", format!("127.0.0.1:{port}"))
        .env("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "true")
        .spawn()
        .unwrap();
    let is_ready =
        || get(&format!("http://127.0.0.1:{port}/health/ready")).is_some_and(|(status, _)| status == 200);
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    while !is_ready() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let ready = is_ready();
    let checked = flagstream(folder.path(), &["topics", "check"], topics.settings());
    let healthy = flagstream(
        folder.path(),
        &["health", "--ready"],
        topics
            .settings()
            .into_iter()
            .chain([("FLAGSTREAM_HTTP__LISTEN".to_owned(), format!("127.0.0.1:{port}"))]),
    );
    service.kill().unwrap();
    service.wait().unwrap();
    assert!(ready, "not ready within {TEST_TIMEOUT:?}");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    assert!(healthy.status.success(), "{}", String::from_utf8_lossy(&healthy.stdout));
}

#[test]
fn the_documents_of_the_topics_name_the_topics_of_the_deployment() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack);
    let service = group.start("a");
    let served = call("GET", &format!("{}/asyncapi.json", service.url), &[], b"").json();
    let printed = flagstream(group.folder.path(), &["asyncapi"], group.settings());
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(served, printed);
    assert_eq!(served["channels"]["events"]["address"], group.topics.events.as_str());

    let manifests =
        ["topics", "manifests", "--strimzi", "--cluster", "c", "--namespace", "kafka", "--output", "json"];
    let manifests = flagstream(group.folder.path(), &manifests, group.settings());
    let lines = String::from_utf8(manifests.stdout).unwrap();
    let resources: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named: BTreeSet<&str> =
        resources.iter().filter_map(|resource| resource["spec"]["topicName"].as_str()).collect();
    assert!(named.contains(group.topics.requests.as_str()) && named.len() == 12, "{named:?}");
    assert_eq!(resources.last().unwrap()["kind"], "KafkaUser");
}
