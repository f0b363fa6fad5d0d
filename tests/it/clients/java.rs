//! The packages for Java, with their own tests in one run of Maven, which can stop and start the services.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Cluster, Database, Flag, Group, PROMPT, Redis, Service, Stack, TcpProxy};

use super::control::Services;
use super::{folder, group, run, skipped, start};

/// Longest run of Maven, in which everything is compiled. The machine may be busy.
const MAVEN_LIMIT: Duration = Duration::from_secs(900);
/// Flags beside those of `clients/vectors.json`.
const VARIANTS: &[(&str, u32)] = &[("dark", 500), ("light", 500)];

/// Maven with what the lock on versions in the poms names, fetched before the tests; `None` where it cannot run.
fn maven(stack: &Stack, of: &str) -> Option<Command> {
    if stack.maven_repository.is_empty() {
        skipped(of, "Maven or Java's compiler is not installed");
        return None;
    }
    let mut command = Command::new("mvn");
    command.args(["--offline", "--batch-mode", "--no-transfer-progress"]);
    command.arg(format!("-Dmaven.repo.local={}", stack.maven_repository));
    command.current_dir(folder("clients/java"));
    Some(command)
}

/// A service whose messages are in Avro, with its topics for the environment of the tests.
pub(super) fn in_avro(kafka: &Stack, flags: &[Flag]) -> (Group, Service, Vec<(&'static str, String)>) {
    let group = group(kafka).set("UNLEASH_ENVIRONMENT", "production").in_avro(&kafka.registry);
    let service = start(&group, flags);
    let topics = vec![
        ("AVRO_URL", service.url.clone()),
        ("AVRO_REQUESTS", group.topics.requests.clone()),
        ("AVRO_UPDATES", group.topics.updates.clone()),
        ("AVRO_REPLY_TOPIC", group.topics.reply_topic("java")),
        ("SCHEMA_REGISTRY_URL", kafka.registry.clone()),
    ];
    (group, service, topics)
}

#[test]
fn the_packages_for_java_pass_their_tests() {
    let (stack, _shared) = Stack::shared();
    let Some(mut maven) = maven(stack, "clients/java") else { return };
    if !Cluster::is_possible(stack) {
        return skipped("clients/java", "Kafka runs in a container");
    }
    let cluster = Cluster::single(stack, PROMPT);
    let kafka = stack.with_kafka(cluster.kafka());
    let (database, redis) = (Database::create(stack), Redis::database(stack));
    let proxy = TcpProxy::to(&redis.url);
    let group = group(&kafka)
        .set("DATABASE_URL", &database.url)
        .set("REDIS_URL", &redis.url)
        .set("UNLEASH_ENVIRONMENT", "production");
    let flags = [Flag::on("killed-in-java"), Flag::experiment("java-experiment", VARIANTS)];
    let service = start(&group, &flags);
    let (_avro_group, _avro, avro) = in_avro(&kafka, &flags);
    let topic = |name: &str| {
        let topic = format!("{}-{name}", group.topics.prefix);
        group.topics.create(&topic, 1);
        topic
    };
    maven
        // Sources and documentation are for repositories; the compiler checks the documentation.
        .args(["package", "-DskipArchives"])
        .envs(group.topics.settings())
        .env("FLAGSTREAM_URL", &service.url)
        .env("REPLY_TOPIC", group.topics.reply_topic("java"))
        .env("GROWING_REPLY_TOPIC", group.topics.reply_topic("growing"))
        .env("ORDERS_TOPIC", topic("orders"))
        .env("ENRICHED_TOPIC", topic("enriched"))
        .env("ORDERS_REPLY_TOPIC", group.topics.reply_topic("orders"))
        .env("CLIENT_REDIS_URL", &proxy.url)
        .envs(avro);
    let mut services = Services { service, cluster, redis: Some(proxy) };
    let (status, said) = services.run(&mut maven, "the tests in Java", MAVEN_LIMIT);
    assert!(status.success(), "{said}");
    assert!(!said.contains("[WARNING]") && said.contains("Skipped: 0"), "{said}");
    check_tests(&said);
    check_archives();
}

/// Each class of live tests has run, and none was skipped.
fn check_tests(said: &str) {
    let lines = || said.lines().filter(|line| line.contains("Tests run:"));
    assert!(lines().all(|line| line.contains("Skipped: 0")), "{said}");
    for class in [
        "VectorsTest",
        "ALiveVectorsTest",
        "BKafkaTest",
        "CCachingTest",
        "DStreamsTest",
        "ReadmeTest",
        "ZFaultsTest",
    ] {
        assert!(lines().any(|line| line.contains(class)), "{class} did not run: {said}");
    }
    for line in said.lines().filter(|line| line.contains("takes effect after")) {
        println!("{line}");
    }
}

/// The archives of code, with the licences in each.
fn check_archives() {
    for (module, artifact) in [
        ("client", "flagstream-client"),
        ("openfeature", "flagstream-openfeature"),
        ("junit", "flagstream-junit"),
        ("spring-boot-starter", "flagstream-spring-boot-starter"),
    ] {
        let archive = folder("clients/java").join(module).join(format!("target/{artifact}-0.1.0.jar"));
        let listed = list(&archive);
        for licence in ["META-INF/LICENSE-MIT", "META-INF/LICENSE-APACHE"] {
            assert!(listed.lines().any(|line| line.contains(licence)), "{artifact}: {listed}");
        }
    }
}

fn list(archive: &Path) -> String {
    run(Command::new("python3").args(["-m", "zipfile", "-l"]).arg(archive))
}
