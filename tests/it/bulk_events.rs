//! Events with the results of several flags: the same rows, replays and cached values as with one event for each flag.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{
    Database, Flags, Group, Received, Redis, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, flagstream,
    post, wait_until,
};

const FLAGS: [&str; 4] = ["on", "off", "theme", "unknown"];
/// Rows of [`Fixture::ask`].
const ROWS: i64 = 4 + 1 + 3 + 4 + 8 + 2 + 3;

struct Fixture {
    group: Group,
    database: Database,
    redis: Redis,
    service: Service,
}

impl Fixture {
    fn new(stack: &Stack, group: Group, settings: &[(&str, &str)]) -> Self {
        let (database, redis) = (Database::create(stack), Redis::database(stack));
        let group = settings.iter().fold(group, |group, (name, value)| group.set(name, *value));
        let group = group
            .set("DATABASE_URL", &database.url)
            .set("REDIS_URL", &redis.url)
            .set("UNLEASH_ENVIRONMENT", "production");
        Flags::new(&group.topics).set_load();
        let service = group.start("one");
        Self { group, database, redis, service }
    }

    /// Sends requests of every form, and makes calls of every form.
    fn ask(&self) {
        let sender = Sender::new(&self.group.topics.kafka);
        let premium = json!({"region": "us-west", "subscription_tier": "premium"});
        let requests = [
            json!({"request_id": "r-1", "flag_names": FLAGS, "default_values": {"theme": "light", "on": null},
                "user_id": "user-1", "session_id": "s-1", "context": premium}),
            json!({"request_id": "r-2", "flag_name": "theme", "default_value": "light", "user_id": "user-2"}),
            json!({"flag_names": ["theme", "theme", "on"], "value_types": {"on": "string"}}),
        ];
        for request in requests {
            let body = request.to_string();
            sender.send(&self.group.topics.requests, Some(0), Some(b"key"), body.as_bytes(), None);
        }
        let url = |path: &str| format!("{}{path}", self.service.url);
        let bulk = "/api/v1/feature-flags/evaluate/bulk";
        let calls = [
            (bulk, json!({"flag_names": FLAGS, "user_id": "user-3", "context": premium})),
            (
                bulk,
                json!({"flag_names": FLAGS, "contexts": [{"user_id": "user-4"}, {"user_id": "user-5", "context": premium}]}),
            ),
            ("/api/v1/feature-flags/evaluate/batch?user_id=user-6", json!(["on", "theme"])),
            (
                "/ofrep/v1/evaluate/flags",
                json!({"context": {"targetingKey": "user-7", "subscription_tier": "premium"}}),
            ),
        ];
        for (path, body) in calls {
            let answer = post(&url(path), &body);
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
        wait_until("all rows", TEST_TIMEOUT, || self.database.audited() >= ROWS);
    }

    /// All rows, without what differs between two runs.
    fn rows(&self) -> Vec<String> {
        let query =
            "SELECT (to_jsonb(e) - 'id' - 'event_id' - 'evaluated_at' - 'source_topic' - 'audit_block'
                - 'evaluation_ns')::text
            FROM feature_flag_evaluations AS e ORDER BY 1";
        let rows: Vec<(String,)> = self.database.rows(query);
        rows.into_iter().map(|(row,)| row).collect()
    }

    fn events(&self, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let mut reader = TopicReader::open(&self.group.topics.kafka, &self.group.topics.events);
        reader.until("the events", TEST_TIMEOUT, enough);
        reader.seen
    }

    /// Keys of the values in Redis.
    fn cached(&self) -> BTreeSet<String> {
        let keys: Vec<String> = self.redis.command(&["KEYS", "*eval:*"]);
        keys.into_iter().collect()
    }

    fn flagstream(&self, arguments: &[&str]) -> String {
        let output = flagstream(self.group.folder.path(), arguments, self.group.settings());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

const EACH: &[(&str, &str)] = &[];
const TOGETHER: &[(&str, &str)] =
    &[("FLAGSTREAM_EVENTS__BULK", "together"), ("FLAGSTREAM_EVENTS__NULLS", "omit")];

#[test]
fn both_forms_give_the_same_rows_replays_and_cached_values() {
    let (stack, _shared) = Stack::shared();
    let each = Fixture::new(stack, Group::new(stack), EACH);
    let omitting = Fixture::new(stack, Group::new(stack), &[("FLAGSTREAM_EVENTS__NULLS", "omit")]);
    let together = Fixture::new(stack, Group::new(stack), TOGETHER);
    let in_avro = Fixture::new(stack, Group::new(stack).in_avro(&stack.registry), TOGETHER);
    let all = [&each, &omitting, &together, &in_avro];
    all.iter().for_each(|fixture| fixture.ask());
    let expected = each.rows();
    assert_eq!(i64::try_from(expected.len()).unwrap(), ROWS, "{expected:#?}");
    for fixture in all {
        assert_eq!(fixture.rows(), expected);
        for metric in [
            "flagstream_evaluations_total",
            "flagstream_events_published_total",
            "flagstream_audit_rows_total",
        ] {
            wait_until(metric, TEST_TIMEOUT, || fixture.service.metrics().sum(metric, &[]) == ROWS as f64);
        }
        wait_until("the same cached values", TEST_TIMEOUT, || fixture.cached() == each.cached());
        for source in ["database", "topics"] {
            let report =
                fixture.flagstream(&["replay", "--from", "1h", "--source", source, "--output", "json"]);
            let report: Value = serde_json::from_str(&report).unwrap();
            assert_eq!(
                (&report["different"], &report["evaluations"]),
                (&json!(0), &json!(ROWS)),
                "{report:#}"
            );
        }
        let lines =
            fixture.flagstream(&["tail", "--from-beginning", "-n", &ROWS.to_string(), "--output", "json"]);
        let evaluations = lines.lines().filter(|line| line.contains("\"FEATURE_FLAG_EVALUATED\"")).count();
        assert_eq!(i64::try_from(evaluations).unwrap(), ROWS, "{lines}");
    }
    let types = |fixture: &Fixture| {
        let evaluations = |event: &Received| event.json()["results"].as_array().map_or(1, Vec::len);
        let rows = usize::try_from(ROWS).unwrap();
        let seen = fixture.events(|seen| seen.iter().map(evaluations).sum::<usize>() >= rows);
        let mut types: Vec<String> =
            seen.iter().map(|event| event.json()["event_type"].as_str().unwrap().to_owned()).collect();
        types.sort_unstable();
        types
    };
    assert!(types(&each).iter().all(|name| name == "FEATURE_FLAG_EVALUATED"));
    // One for each request and call, of the call with two contexts two; the request for one flag keeps its form.
    for fixture in [&together, &in_avro] {
        let types = types(fixture);
        let bulk = types.iter().filter(|name| *name == "FEATURE_FLAGS_EVALUATED").count();
        assert_eq!((bulk, types.len()), (7, 8), "{types:?}");
    }
}

#[test]
fn ids_of_answers_are_those_of_their_rows() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack, Group::new(stack), TOGETHER);
    let url = format!("{}/api/v1/feature-flags/evaluate/bulk", fixture.service.url);
    let answer = post(&url, &json!({"flag_names": FLAGS, "user_id": "user-1"})).json();
    let ids =
        FLAGS.map(|flag| (flag.to_owned(), answer["results"][flag]["event_id"].as_str().unwrap().to_owned()));
    wait_until("the rows", TEST_TIMEOUT, || fixture.database.audited() == 4);
    let rows: Vec<(String, String)> =
        fixture.database.rows("SELECT flag_name, event_id::text FROM feature_flag_evaluations");
    assert_eq!(BTreeSet::from(ids), rows.into_iter().collect());
}

#[test]
fn results_that_exceed_the_limit_of_the_topic_are_divided() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack, Group::new(stack), TOGETHER);
    let topics = &fixture.group.topics;
    topics.limit_record(&topics.events, 2_500);
    let flags: Vec<String> = (0..60).map(|number| format!("flag-{number}")).collect();
    // Random, so that compression does not help.
    let text = || (0..20).map(|_| format!("{:016x}", rand::random::<u64>())).collect::<String>();
    let defaults: Value =
        flags.iter().map(|flag| (flag.clone(), json!(text()))).collect::<serde_json::Map<_, _>>().into();
    let ask = |user: &str| json!({"flag_names": flags, "default_values": defaults, "user_id": user});
    Sender::new(&topics.kafka).send(
        &topics.requests,
        None,
        Some(b"u"),
        ask("user-1").to_string().as_bytes(),
        None,
    );
    let rows = |user: &str| {
        let query = format!(
            "SELECT count(DISTINCT flag_name) FROM feature_flag_evaluations WHERE user_id = '{user}'"
        );
        fixture.database.number(&query)
    };
    wait_until("the results of the request", TEST_TIMEOUT, || rows("user-1") == Some(60));
    assert_eq!(fixture.service.metrics().sum("flagstream_dead_letters_total", &[]), 0.0);
    // Calls keep to the limit once it was read.
    let url = format!("{}/api/v1/feature-flags/evaluate/bulk", fixture.service.url);
    let mut call = 0;
    wait_until("the results of a call", TEST_TIMEOUT, || {
        call += 1;
        let user = format!("caller-{call}");
        assert_eq!(post(&url, &ask(&user)).status, 200);
        let later = format!("later-{call}");
        assert_eq!(post(&url, &json!({"flag_names": ["on", "off"], "user_id": later})).status, 200);
        wait_until("the next call", TEST_TIMEOUT, || rows(&later) == Some(2));
        rows(&user) == Some(60)
    });
    let count = "SELECT count(*) FROM feature_flag_evaluations WHERE user_id = 'user-1'";
    assert_eq!(fixture.database.number(count), Some(60), "each once");
}

#[test]
fn malformed_bulk_events_become_dead_letters_as_a_whole() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack, Group::new(stack), EACH);
    let topics = &fixture.group.topics;
    let good = |user: &str| {
        json!({"event_type": "FEATURE_FLAGS_EVALUATED", "event_id": "019bc134-7845-7000-803e-300000018330",
            "user_id": user, "environment": "production", "flags_version": 7, "context": {},
            "evaluated_at": chrono::Utc::now().to_rfc3339(), "source": {"api": "rest"},
            "results": [{"flag_name": "a", "enabled": true, "reason": "DEFAULT", "flag_version": 5},
                {"flag_name": "b", "enabled": false, "reason": "DEFAULT", "flag_version": 6}]})
    };
    let changed = |path: &str, value: Value| {
        let mut event = good("bad");
        *event.pointer_mut(path).unwrap() = value;
        event
    };
    let kafka = |index: i64| json!({"topic": "t", "partition": 0, "offset": 1, "index": index});
    let bad = [
        (changed("/results", json!([])), "results: expected at least one result, got none"),
        (changed("/results", Value::Null), "results: a required value is missing"),
        (
            changed("/results/1/enabled", json!("yes")),
            "results[1]: enabled: expected true or false, got `\"yes\"`",
        ),
        (changed("/results/1/flag_name", Value::Null), "results[1]: flag_name: a required value is missing"),
        (changed("/source", kafka(7)), "source.index: expected 0, as in event_id, got `7`"),
        (
            changed("/results", vec![json!({"flag_name": "a"}); 10_001].into()),
            "results: expected at most 10000 results, got more",
        ),
    ];
    let sender = Sender::new(&topics.kafka);
    for (event, _) in &bad {
        sender.send(&topics.events, Some(0), None, event.to_string().as_bytes(), None);
    }
    sender.send(&topics.events, Some(0), None, good("good").to_string().as_bytes(), None);
    wait_until("the rows of the good one", TEST_TIMEOUT, || fixture.database.audited() == 2);
    let mut dead_letters = TopicReader::open(&topics.kafka, &topics.dead_letters);
    dead_letters.until("the dead letters", TEST_TIMEOUT, |seen| seen.len() >= bad.len());
    let reasons: Vec<_> =
        dead_letters.seen.iter().map(|letter| letter.header("error-message").unwrap()).collect();
    assert_eq!(reasons, bad.each_ref().map(|(_, reason)| *reason));
    assert!(dead_letters.seen.iter().all(|letter| letter.header("error-code") == Some("INVALID_EVENT")));
}
