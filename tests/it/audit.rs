//! The audit trail: every committed event is a row, once, whatever breaks.

mod again;
mod blocked;
mod broken;
mod chain;
mod pooler;

use std::process::Stdio;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::message::{Header, OwnedHeaders};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::harness::{
    Database, Flags, Group, Ledger, Load, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, block_on,
    command, flagstream, free_port, is_long, post, temporary_folder, wait_until,
};

/// Evaluators and sinks under load, the books of events, and the database.
struct Fixture {
    group: Group,
    database: Database,
    ledger: Ledger,
    load: Option<Load>,
    reply_to: String,
    at_least_once: bool,
}

impl Fixture {
    fn new(stack: &Stack) -> Self {
        let database = Database::create(stack);
        let group = Group::new(stack)
            .set("DATABASE_URL", &database.url)
            .set("FLAGSTREAM_DELIVERY__SESSION_TIMEOUT", "2s")
            .set("FLAGSTREAM_DELIVERY__TRANSACTION_TIMEOUT", "2s");
        Flags::new(&group.topics).set_load();
        let reply_to = group.topics.reply_topic("load");
        let ledger = Ledger::open(&group.topics, &reply_to);
        Self { group, database, ledger, load: None, reply_to, at_least_once: false }
    }

    fn at_least_once(mut self) -> Self {
        self.group = self.group.set("FLAGSTREAM_DELIVERY__MODE", "at_least_once");
        self.at_least_once = true;
        self
    }

    /// An instance with these roles only.
    fn start(&self, name: &str, roles: &str) -> Service {
        let mut service = self.group.prepare(name).roles(roles);
        service.spawn();
        service.wait_until_ready();
        service
    }

    fn load(&mut self, rate: u32) {
        self.load = Some(Load::start(&self.group.topics, &self.reply_to, rate));
        self.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    }

    /// Lets the load run into whatever the test broke.
    fn run_for(&mut self, time: Duration) {
        let before = std::time::Instant::now();
        while before.elapsed() < time {
            self.ledger.progress();
        }
    }

    /// Waits until rows are added.
    fn wait_for_rows(&mut self, what: &str) {
        let before = self.database.audited();
        wait_until(what, TEST_TIMEOUT, || self.database.audited() > before);
    }

    /// Events committed = rows.
    fn balance(mut self) -> Database {
        let sent = self.load.take().unwrap().stop();
        let events = if self.at_least_once {
            self.ledger.assert_last_pair_suffices()
        } else {
            self.ledger.assert_exactly_once()
        };
        self.database.assert_audited(&events, TEST_TIMEOUT * 2);
        println!("{sent} requests, {} events, {} rows", events.len(), self.database.audited());
        self.database
    }
}

/// Evaluated = published = audited, of services that were never restarted.
fn assert_counters_agree(services: &[Service], database: &Database) {
    let rows = database.audited() as f64;
    wait_until("audited as counted", TEST_TIMEOUT, || sum(services, "flagstream_audit_rows_total") >= rows);
    for metric in
        ["flagstream_evaluations_total", "flagstream_events_published_total", "flagstream_audit_rows_total"]
    {
        assert_eq!(sum(services, metric), rows, "{metric}");
    }
}

fn sum(services: &[Service], metric: &str) -> f64 {
    services.iter().map(|service| service.metrics().sum(metric, &[])).sum()
}

#[test]
fn evaluated_published_and_audited_agree() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let services = [fixture.group.start("a"), fixture.group.start("b")];
    fixture.load(1_000);
    fixture.wait_for_rows("rows are written");
    fixture.run_for(Duration::from_secs(3));
    let database = fixture.balance();
    assert_counters_agree(&services, &database);
    let versions: Vec<(String, i64, String)> =
        database.rows("SELECT name, version, checksum FROM feature_flag_versions ORDER BY name");
    assert_eq!(versions.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["off", "on", "theme"]);
    let cached: Vec<(String, bool, bool)> = database.rows(
        "SELECT f.name, f.is_enabled, f.version = v.version AND f.last_synced_at IS NOT NULL
         FROM feature_flags f JOIN feature_flag_versions v USING (environment, name) ORDER BY f.name",
    );
    let expected = [("off", false), ("on", true), ("theme", true)];
    assert_eq!(cached, expected.map(|(name, on)| (name.to_owned(), on, true)));
}

#[test]
fn sinks_are_killed_at_random_moments() {
    sinks_are_killed(false);
}

#[test]
fn sinks_are_killed_at_random_moments_at_least_once() {
    sinks_are_killed(true);
}

fn sinks_are_killed(at_least_once: bool) {
    let (stack, _shared) = Stack::shared();
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut fixture = Fixture::new(stack);
    if at_least_once {
        fixture = fixture.at_least_once();
    }
    let mut evaluator = fixture.start("evaluator", "evaluator,api");
    let mut sinks: Vec<_> = ["a", "b"].iter().map(|name| fixture.start(name, "sink")).collect();
    fixture.load(if is_long() { 4_000 } else { 1_500 });
    fixture.wait_for_rows("rows are written");
    let kills = if is_long() { 24 } else { 3 };
    for _ in 0..kills {
        fixture.run_for(Duration::from_millis(chance.random_range(100..1_500)));
        let victim = chance.random_range(0..sinks.len());
        sinks[victim].kill();
        if at_least_once {
            // Writes results again that the sink has seen already.
            evaluator.kill();
            evaluator.spawn();
        }
        if chance.random_bool(0.4) {
            fixture.wait_for_rows("the other took over");
        }
        sinks[victim].spawn();
    }
    sinks.iter_mut().for_each(Service::wait_until_ready);
    evaluator.wait_until_ready();
    fixture.balance();
}

#[test]
fn two_sinks_on_the_same_partitions_write_each_row_once() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let _evaluator = fixture.start("evaluator", "evaluator,api");
    // Groups of their own: each is given every partition.
    let sinks = ["a", "b"].map(|name| {
        let group = fixture
            .group
            .clone()
            .set("FLAGSTREAM_KAFKA__GROUP_ID", format!("{}-{name}", fixture.group.topics.prefix));
        let mut sink = group.prepare(name).roles("sink");
        sink.spawn();
        sink.wait_until_ready();
        sink
    });
    fixture.load(1_500);
    let conflicts = || {
        let count =
            |sink: &Service| sink.metrics().sum("flagstream_audit_batches_total", &[("outcome", "conflict")]);
        sinks.iter().map(count).sum::<f64>()
    };
    let (wanted, patience) = if is_long() { (200.0, 10 * TEST_TIMEOUT) } else { (5.0, TEST_TIMEOUT) };
    wait_until("the sinks get into each other's way", patience, || {
        fixture.ledger.progress();
        conflicts() >= wanted
    });
    fixture.balance();
    println!("{} conflicts", conflicts());
}

#[test]
fn a_restored_database_is_filled_again_from_kafka() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let _evaluator = fixture.start("evaluator", "evaluator,api");
    let mut sink = fixture.start("a", "sink");
    fixture.load(1_000);
    fixture.wait_for_rows("rows are written");
    fixture.load.take().unwrap().stop();
    let events =
        std::mem::replace(&mut fixture.ledger, Ledger::open(&fixture.group.topics, &fixture.reply_to))
            .assert_exactly_once();
    fixture.database.assert_audited(&events, TEST_TIMEOUT);
    sink.stop();
    // Kafka's committed offsets are far ahead of it now.
    fixture.database.run(
        "TRUNCATE feature_flag_evaluations, feature_flags, feature_flag_usage, feature_flag_versions, sink_offsets,
            sink_streams",
    );
    sink.spawn();
    sink.wait_until_ready();
    fixture.database.assert_audited(&events, TEST_TIMEOUT);
    let versions = "SELECT count(*) FROM feature_flag_versions";
    wait_until("the definitions too", TEST_TIMEOUT, || fixture.database.number(versions) == Some(3));
}

#[test]
fn connections_are_terminated_at_random_moments() {
    let (stack, _shared) = Stack::shared();
    let mut chance = StdRng::seed_from_u64(rand::random());
    let mut fixture = Fixture::new(stack);
    let services = [fixture.group.start("a"), fixture.group.start("b")];
    fixture.load(1_500);
    fixture.wait_for_rows("rows are written");
    let terminate = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND application_name <> ''",
        fixture.database.name
    );
    for _ in 0..if is_long() { 300 } else { 25 } {
        fixture.run_for(Duration::from_millis(chance.random_range(0..250)));
        fixture.database.administer(&terminate);
    }
    let database = fixture.balance();
    assert_counters_agree(&services, &database);
    let found = services.iter().map(|service| {
        service.metrics().sum("flagstream_audit_batches_total", &[("outcome", "found_committed")])
    });
    println!("{} commits were not confirmed", found.sum::<f64>());
}

#[test]
fn a_frozen_sink_that_wakes_up_writes_nothing_twice() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let _evaluator = fixture.start("evaluator", "evaluator,api");
    let sinks = ["a", "b"].map(|name| fixture.start(name, "sink"));
    fixture.load(1_500);
    let written = |sink: &Service| sink.metrics().sum("flagstream_audit_rows_total", &[]);
    for round in 0..if is_long() { 20 } else { 2 } {
        let (frozen, other) = (&sinks[round % 2], &sinks[(round + 1) % 2]);
        let before = written(frozen);
        wait_until("at work", TEST_TIMEOUT, || written(frozen) > before);
        frozen.freeze();
        wait_until("the other took over", TEST_TIMEOUT, || {
            fixture.ledger.progress();
            other.metrics().sum("flagstream_audit_partitions", &[]) == 6.0
        });
        let before = written(other);
        wait_until("the other writes", TEST_TIMEOUT, || written(other) > before);
        frozen.thaw();
    }
    fixture.balance();
}

#[test]
fn postgres_is_stopped_and_comes_back() {
    let (stack, exclusive) = Stack::exclusive();
    let mut fixture = Fixture::new(stack);
    let services = [fixture.group.start("a"), fixture.group.start("b")];
    fixture.load(1_000);
    fixture.wait_for_rows("rows are written");
    let stopped = stack.stop("postgres", &exclusive);
    wait_until("the sink says why it waits", TEST_TIMEOUT, || {
        services.iter().all(|service| paused(service, "unreachable"))
    });
    for service in &services {
        let health = service.health();
        assert_eq!(health["parts"]["sink"]["state"], "down", "{health}");
        assert_eq!(health["ready"], true, "{health}");
    }
    // Evaluation goes on without it.
    let began = std::time::Instant::now();
    let outage = Duration::from_secs(if is_long() { 60 } else { 5 });
    while began.elapsed() < outage {
        fixture.ledger.sign_of_life("evaluated without a database", TEST_TIMEOUT);
    }
    drop(stopped);
    fixture.wait_for_rows("rows are written again");
    wait_until("the sinks are well", TEST_TIMEOUT, || {
        services.iter().all(|service| service.health()["parts"]["sink"]["state"] == "up")
    });
    fixture.balance();
}

fn paused(service: &Service, reason: &str) -> bool {
    service.metrics().sum("flagstream_audit_paused", &[("what", "evaluations"), ("reason", reason)]) == 1.0
}

#[test]
fn the_sink_waits_says_why_and_goes_on_alone() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.group.start("a");
    fixture.load(500);
    fixture.wait_for_rows("rows are written");
    let name = fixture.database.name.clone();
    let reconnect = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND application_name <> ''"
    );

    fixture.database.administer(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    fixture.database.administer(&reconnect);
    wait_until("it waits: read-only", TEST_TIMEOUT, || paused(&service, "read_only"));
    fixture.database.administer(&format!("ALTER DATABASE {name} RESET default_transaction_read_only"));
    fixture.database.administer(&reconnect);
    fixture.wait_for_rows("writable again");

    // Rows, and the positions that say they are there, stay: only room for new ones is taken.
    let detach = fixture.database.rows::<(String,)>(
        "SELECT format('ALTER TABLE feature_flag_evaluations DETACH PARTITION %s', inhrelid::regclass)
         FROM pg_inherits WHERE inhparent = 'feature_flag_evaluations'::regclass",
    );
    let before = fixture.database.audited();
    fixture.database.run(&detach.into_iter().map(|(statement,)| statement).collect::<Vec<_>>().join(";"));
    // It makes the partitions again by itself; those of before are found and attached with their rows.
    wait_until("partitions are made again", TEST_TIMEOUT, || fixture.database.audited() > before);

    if is_long() {
        fixture.database.run("ALTER TABLE feature_flag_evaluations RENAME TO moved");
        wait_until("it waits: no table", TEST_TIMEOUT, || paused(&service, "schema"));
        fixture.database.run("ALTER TABLE moved RENAME TO feature_flag_evaluations");
        fixture.wait_for_rows("the table is back");

        std::thread::scope(|scope| {
            scope.spawn(|| {
                fixture
                    .database
                    .run("BEGIN; LOCK TABLE feature_flag_evaluations; SELECT pg_sleep(15); COMMIT");
            });
            wait_until("it waits: somebody holds the table", TEST_TIMEOUT, || paused(&service, "blocked"));
        });
        fixture.wait_for_rows("the table is free");
    }
    assert!(!paused(&service, "read_only"));
    fixture.balance();
}

/// An event as this software writes it, with some members replaced.
fn event(number: u32, changes: &[(&str, Value)]) -> Value {
    let mut event = json!({
        "event_type": "FEATURE_FLAG_EVALUATED", "event_id": format!("019bc134-7845-8002-896e-{number:012x}"),
        "request_id": format!("r-{number}"), "flag_name": "theme", "user_id": format!("user-{number}"),
        "session_id": null, "environment": "production", "value": "true", "typed_value": true, "enabled": true,
        "variant": null, "reason": "TARGETING_MATCH", "error_code": null, "error_message": null, "flag_version": 7,
        "context": {}, "default_value": null, "evaluated_at": "2026-01-15T10:30:00.012345Z",
        "source": {"api": "rest"},
    });
    for (member, value) in changes {
        event[*member] = value.clone();
    }
    event
}

#[test]
fn bad_data_is_a_row_or_a_dead_letter_and_its_neighbours_are_rows() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let topics = &fixture.group.topics;
    let service = fixture.start("a", "sink");
    wait_until("the tables are there", TEST_TIMEOUT, || fixture.database.audited() == 0);
    fixture.database.run(
        "ALTER TABLE feature_flag_evaluations ADD CONSTRAINT no_poison CHECK (user_id NOT LIKE 'poison%')",
    );
    let sender = Sender::new(&topics.kafka);
    let send = |body: &str| sender.send(&topics.events, Some(0), Some(b"key"), body.as_bytes(), None);
    let rows = [
        json!({"user": "nul \u{0}", "\u{0}": ["\u{0}"]}),
        json!({"text": "x".repeat(1 << 20)}),
        json!({"long": "é".repeat(3_000)}),
    ];
    let mut bodies: Vec<String> = rows
        .iter()
        .zip(0..)
        .map(|(context, n)| {
            event(n, &[("context", context.clone()), ("user_id", json!(format!("nul\u{0}{n}")))]).to_string()
        })
        .collect();
    let plain = event(10, &[]).to_string();
    // Numbers that a tree of JSON cannot hold.
    bodies.push(plain.replace(
        r#""context":{}"#,
        r#""context":{"n":1e131071,"m":1e400000,"o":-1e-99999,"p":12345678901234567890123}"#,
    ));
    bodies.push(event(11, &[("user_id", json!("u".repeat(100_000)))]).to_string());
    bodies.push(
        event(12, &[("environment", json!("e".repeat(100_000))), ("flag_version", Value::Null)]).to_string(),
    );
    bodies.push(event(13, &[("evaluated_at", json!("1999-12-31T23:59:59Z"))]).to_string());
    bodies.push(event(14, &[("evaluated_at", json!("2199-01-01T00:00:00Z"))]).to_string());
    bodies.push(
        event(15, &[("typed_value", json!({"a": [1, 2.5, null]})), ("default_value", json!("light"))])
            .to_string(),
    );
    let mut dead = vec![
        ("no event".to_owned(), "INVALID_EVENT"),
        (plain.replace(r#""context":{}"#, r#""context":{"half":"\ud800"}"#), "INVALID_EVENT"),
        (event(20, &[("event_id", json!("x"))]).to_string(), "INVALID_EVENT"),
        (event(21, &[("flag_name", Value::Null)]).to_string(), "INVALID_EVENT"),
    ];
    dead.extend(
        (22..25).map(|n| (event(n, &[("user_id", json!(format!("poison-{n}")))]).to_string(), "ROW_REFUSED")),
    );
    let mut sent = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        send(body);
        if let Some((body, code)) = dead.get(number) {
            sent.push((send(body), body.clone(), *code));
        }
    }
    send(&json!({"event_type": "FEATURE_FLAG_UPDATED", "flag_name": "theme"}).to_string());
    let expected = i64::try_from(bodies.len()).unwrap();
    wait_until("the good ones are rows", TEST_TIMEOUT, || fixture.database.audited() >= expected);
    let mut letters = TopicReader::open(&topics.kafka, &topics.dead_letters);
    for ((partition, offset), body, code) in &sent {
        let (partition, offset) = (partition.to_string(), offset.to_string());
        let letter = letters.wait(&format!("{code}: {body}"), TEST_TIMEOUT, |letter| {
            letter.header("source-partition") == Some(&partition)
                && letter.header("source-offset") == Some(&offset)
        });
        assert_eq!(letter.header("error-code"), Some(*code), "{body}");
        assert_eq!(letter.header("source-topic"), Some(topics.events.as_str()));
        assert_eq!(letter.payload.as_deref(), Some(body.as_bytes()));
        assert_eq!(letter.key.as_deref(), Some(b"key".as_slice()));
    }
    assert_eq!(fixture.database.audited(), expected);
    fixture.database.assert_counts();
    let refused = service.metrics().sum("flagstream_dead_letters_total", &[]);
    assert_eq!(refused, sent.len() as f64);
    let numbers: Vec<(String, String, bool)> = fixture.database.rows(
        "SELECT context->>'m', context->>'p', amended FROM feature_flag_evaluations WHERE context ? 'm'",
    );
    assert_eq!(numbers, [("1e400000".to_owned(), "12345678901234567890123".to_owned(), true)]);
    let elsewhere = "SELECT count(*) FROM feature_flag_evaluations_other";
    // The year of the others is long past as well.
    assert_eq!(fixture.database.number(elsewhere), Some(expected));
    let by_user = fixture.database.number(
        "SELECT count(*) FROM feature_flag_evaluations
         WHERE hashtextextended(user_id, 0) = hashtextextended(repeat('u', 100000), 0) AND user_id = repeat('u', 100000)",
    );
    assert_eq!(by_user, Some(1));
}

#[test]
fn late_rows_move_into_their_day_and_old_days_are_dropped() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    fixture.group = fixture.group.set("FLAGSTREAM_AUDIT__RETENTION_DAYS", "3");
    let mut service = fixture.start("a", "sink");
    wait_until("partitions are made", TEST_TIMEOUT, || partitions(&fixture.database) == 3 + 1 + 3);
    let at = |days: i64| (chrono::Utc::now() + chrono::Duration::days(days)).to_rfc3339();
    let sender = Sender::new(&fixture.group.topics.kafka);
    for (number, days) in [(1, 0), (2, 5), (3, -2), (4, -40)] {
        let body = event(number, &[("evaluated_at", json!(at(days)))]).to_string();
        sender.send(&fixture.group.topics.events, Some(0), None, body.as_bytes(), None);
    }
    wait_until("rows", TEST_TIMEOUT, || fixture.database.audited() == 4);
    let other = || fixture.database.number("SELECT count(*) FROM feature_flag_evaluations_other");
    assert_eq!(other(), Some(2), "that of the future, and that of long ago");
    // Simulates the passage of time in the tables: a day that was kept is too old, and a near one has no partition.
    service.stop();
    let old = (chrono::Utc::now() - chrono::Duration::days(9)).date_naive();
    let (table, next) = (old.format("feature_flag_evaluations_%Y%m%d"), old.succ_opt().unwrap());
    let near = (chrono::Utc::now() + chrono::Duration::days(2))
        .date_naive()
        .format("feature_flag_evaluations_%Y%m%d");
    fixture.database.run(&format!(
        "CREATE TABLE {table} PARTITION OF feature_flag_evaluations FOR VALUES FROM ('{old}') TO ('{next}');
         DROP TABLE {near};
         UPDATE feature_flag_evaluations SET evaluated_at = evaluated_at - interval '3 days'
            WHERE evaluated_at > now() + interval '4 days'"
    ));
    assert_eq!(other(), Some(2));
    service.spawn();
    service.wait_until_ready();
    // That of a clock that was 40 days behind is kept for a week.
    wait_until("old rows are dropped, the others are where they belong", TEST_TIMEOUT, || {
        other() == Some(1) && partitions(&fixture.database) == 3 + 1 + 3 && fixture.database.audited() == 4
    });
    let late = || service.metrics().sum("flagstream_audit_late_rows", &[]);
    wait_until("the late one is reported", TEST_TIMEOUT, || late() == 1.0);
    let sink = || service.health()["parts"]["sink"].clone();
    wait_until("health names it", TEST_TIMEOUT, || sink()["state"] == "degraded");
    assert!(sink()["detail"].to_string().contains("older than the retention"), "{}", sink());
}

fn partitions(database: &Database) -> i64 {
    let count =
        "SELECT count(*) - 1 FROM pg_inherits WHERE inhparent = to_regclass('feature_flag_evaluations')";
    database.number(count).unwrap_or(-1)
}

#[test]
fn many_migrate_at_once() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let folder = temporary_folder();
    std::thread::scope(|scope| {
        let migrating: Vec<_> = (0..4)
            .map(|_| {
                let settings = [("DATABASE_URL".to_owned(), database.url.clone())];
                scope.spawn(|| flagstream(folder.path(), &["migrate"], settings))
            })
            .collect();
        for migrated in migrating {
            let output = migrated.join().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    });
    assert_eq!(database.audited(), 0);
    let settings = [("DATABASE_URL".to_owned(), database.url.clone())];
    let output = flagstream(folder.path(), &["migrate"], settings);
    assert!(String::from_utf8_lossy(&output.stdout).contains("is up to date"), "{output:?}");
    let settings = [("DATABASE_URL".to_owned(), "postgres://nobody:wrong@127.0.0.1:1/none".to_owned())];
    let output = flagstream(folder.path(), &["migrate"], settings);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !error.contains("wrong"), "{error}");
}

#[test]
fn dev_is_killed_and_starts_again_with_its_rows() {
    let folder = temporary_folder();
    let file = folder.path().join("flagstream-dev.db");
    let url = format!("sqlite:{}?mode=ro", file.display());
    let count = |what: &str| -> i64 {
        let query = format!("SELECT {what} FROM feature_flag_evaluations");
        block_on(async {
            let mut database = SqliteConnection::connect(&url).await.ok()?;
            sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut database).await.ok()
        })
        .unwrap_or(-1)
    };
    let mut before = 0;
    for round in 0..3 {
        let port = free_port();
        let mut dev = command(folder.path())
            .args(["dev", "--rate", "200", "--quiet"])
            .env("FLAGSTREAM_HTTP__LISTEN", format!("127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        wait_until(&format!("rows of round {round}"), TEST_TIMEOUT, || count("count(*)") > before + 200);
        dev.kill().unwrap();
        dev.wait().unwrap();
        let after = count("count(*)");
        assert!(after > before, "round {round}: {after} after {before}");
        before = after;
        assert_eq!(count("count(DISTINCT event_id)"), before, "rows twice");
    }
}

#[test]
fn what_is_private_is_written_nowhere_and_a_user_is_erased() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    fixture.group = fixture
        .group
        .set("FLAGSTREAM_PRIVACY__DROP_ATTRIBUTES", "email")
        .set("FLAGSTREAM_PRIVACY__HASH_ATTRIBUTES", "phone,session_id")
        .set("FLAGSTREAM_PRIVACY__USER_IDS", "hash")
        .set("FLAGSTREAM_PRIVACY__HASH_KEY", "a key of sixteen");
    let service = fixture.group.start("a");
    let topics = fixture.group.topics.clone();
    let sender = Sender::new(&topics.kafka);
    let secrets = ["ann-secret", "mail-secret", "phone-secret", "session-secret"];
    let body = json!({"request_id": "r-1", "flag_name": "theme", "default_value": "light", "user_id": secrets[0],
        "session_id": secrets[3], "environment": "production", "context": {"email": secrets[1], "phone": secrets[2],
        "subscription_tier": "premium", "userId": secrets[0]}});
    let headers = OwnedHeaders::new().insert(Header { key: "reply-to", value: Some(&fixture.reply_to) });
    let ask = |headers| {
        let (key, body) = (secrets[0].as_bytes(), body.to_string());
        sender.send(&topics.requests, None, Some(key), body.as_bytes(), headers)
    };
    ask(Some(headers));
    let mut events = TopicReader::open(&topics.kafka, &topics.events);
    let event = events.wait("the event", TEST_TIMEOUT, |_| true);
    let reply = TopicReader::open(&topics.kafka, &fixture.reply_to).wait("the reply", TEST_TIMEOUT, |_| true);
    // Evaluated on what was asked, the dropped and the hashed included.
    assert_eq!(event.json()["variant"], "dark");
    wait_until("the row", TEST_TIMEOUT, || fixture.database.audited() == 1);
    let rows: Vec<(String,)> = fixture.database.rows("SELECT e::text FROM feature_flag_evaluations e");
    for secret in secrets {
        for received in [&event, &reply] {
            let text = String::from_utf8_lossy(received.payload.as_deref().unwrap());
            assert!(!text.contains(secret), "{text}");
            assert_ne!(received.key.as_deref(), Some(secret.as_bytes()));
        }
        assert!(rows.iter().all(|(row,)| !row.contains(secret)), "{rows:?}");
    }
    assert_eq!(event.json()["user_id"], event.json()["context"]["userId"]);
    assert_eq!(event.json()["context"]["phone"].as_str().map(str::len), Some(32));

    ask(None);
    wait_until("the second row", TEST_TIMEOUT, || fixture.database.audited() == 2);
    let erase = |arguments: &[&str]| {
        let arguments = [&["erase", "--output", "json", "--user", secrets[0]], arguments].concat();
        let output = flagstream(fixture.group.folder.path(), &arguments, fixture.group.settings());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let erased = |arguments: &[&str]| {
        let report = erase(arguments);
        (report["rows"].as_u64(), report["keys"].as_u64())
    };
    assert_eq!(erased(&["--anonymise"]), (Some(2), Some(0)));
    let kept = "SELECT count(*) FROM feature_flag_evaluations WHERE user_id IS NULL AND context = '{}'";
    assert_eq!(fixture.database.number(kept), Some(2));
    ask(None);
    wait_until("the third row", TEST_TIMEOUT, || fixture.database.audited() == 3);
    assert_eq!(erased(&[]), (Some(1), Some(0)));
    assert_eq!(erased(&[]), (Some(0), Some(0)));
    assert_eq!(fixture.database.audited(), 2);

    // Over HTTP too: the answer is for what was asked, the event says less.
    let mut call = body.clone();
    call["context"]["session_id"] = json!(secrets[3]);
    let answer = post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &call);
    assert_eq!(answer.json()["variant"], "dark", "{answer:?}");
    let event =
        events.wait("the event of the call", TEST_TIMEOUT, |event| event.json()["source"]["api"] == "rest");
    let text = String::from_utf8_lossy(event.payload.as_deref().unwrap());
    let shown = secrets.into_iter().find(|secret| text.contains(secret));
    assert_eq!(shown, None, "{text}");
    assert_ne!(event.key.as_deref(), Some(secrets[0].as_bytes()));
}
