//! The feeder with a real Unleash: definitions, change events and invalidations.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{
    Admin, Group, Mood, Proxy, Received, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, get, rollout,
    wait_for, wait_until,
};

/// The ends of all topics that the feeder writes to, and Unleash's Admin API.
struct Feed {
    group: Group,
    admin: Admin,
    proxy: Proxy,
    sender: Sender,
    definitions: TopicReader,
    events: TopicReader,
    updates: TopicReader,
}

/// Change of one flag in a topic: its kind and its version.
type Change = (String, u64);

impl Feed {
    /// Unleash is looked at through a proxy that shows this test's flags only.
    fn new(stack: &Stack, refresh_interval: &str) -> Self {
        let group = Group::new(stack);
        let prefix = group.topics.prefix.clone();
        let proxy = Proxy::start(stack, &prefix);
        let group = group
            .set("UNLEASH_URL", &proxy.url)
            .set("UNLEASH_API_TOKEN", &stack.unleash.development_token)
            .set("UNLEASH_APP_NAME", &prefix)
            .set("UNLEASH_REFRESH_INTERVAL", refresh_interval)
            .set("UNLEASH_METRICS_INTERVAL", "1s");
        let topics = &group.topics;
        Self {
            admin: Admin::new(stack, &prefix),
            sender: Sender::new(&topics.kafka),
            definitions: TopicReader::open(&topics.kafka, &topics.definitions),
            events: TopicReader::open(&topics.kafka, &topics.events),
            updates: TopicReader::open(&topics.kafka, &topics.updates),
            proxy,
            group,
        }
    }

    fn key(&self, flag: &str) -> Vec<u8> {
        format!("development/{}", self.admin.name(flag)).into_bytes()
    }

    /// Waits for a definition of the flag that `fits`; its version.
    fn defined(&mut self, what: &str, flag: &str, mut fits: impl FnMut(&Value) -> bool) -> u64 {
        let key = self.key(flag);
        let record = self.definitions.wait(what, TEST_TIMEOUT, |record| {
            record.key.as_deref() == Some(&key)
                && record.payload.is_some()
                && fits(&record.json()["definition"])
        });
        record.json()["version"].as_u64().unwrap()
    }

    /// Waits for the flag's end; its version.
    fn deleted(&mut self, flag: &str) -> u64 {
        let key = self.key(flag);
        let record = self.definitions.wait("a tombstone", TEST_TIMEOUT, |record| {
            record.key.as_deref() == Some(&key) && record.payload.is_none()
        });
        record.header("version").unwrap().parse().unwrap()
    }

    /// Waits for the invalidation of this version, which appears with everything of the same transaction.
    fn announced(&mut self, version: u64) -> Value {
        let fits = |record: &Received| record.json()["version"] == version;
        self.events.wait(&format!("change event of version {version}"), TEST_TIMEOUT, fits);
        self.updates.wait(&format!("invalidation of version {version}"), TEST_TIMEOUT, fits).json()
    }

    /// Definitions, change events and invalidations of the flag agree: the sequence begins with its creation, and each
    /// version is announced once and follows the one before it.
    fn assert_consistent(&mut self, flag: &str) -> Vec<Change> {
        let (name, key) = (self.admin.name(flag), self.key(flag));
        // All three are read as far as one of them was.
        let last = self.updates.seen.iter().rfind(|record| record.json()["flag_name"] == name).map(version);
        if let Some(last) = last {
            self.definitions.wait("the last definition", TEST_TIMEOUT, |record| {
                record.key.as_deref() == Some(&key) && version(record) == last
            });
        }
        let defined: Vec<u64> = self
            .definitions
            .seen
            .iter()
            .filter(|record| record.key.as_deref() == Some(&key))
            .map(version)
            .collect();
        self.announced(*defined.last().unwrap());
        let of_flag = |tap: &TopicReader| -> Vec<Value> {
            let bodies = tap.seen.iter().map(Received::json);
            bodies
                .filter(|body| body["flag_name"] == name && body["event_type"] != "FEATURE_FLAG_EVALUATED")
                .collect()
        };
        let change = |body: &Value| -> Change {
            (body["event_type"].as_str().unwrap().to_owned(), body["version"].as_u64().unwrap())
        };
        let updates = of_flag(&self.updates);
        let told: Vec<_> = updates.iter().map(change).collect();
        assert_eq!(
            told,
            of_flag(&self.events).iter().map(change).collect::<Vec<_>>(),
            "change events of {name}"
        );
        let mut previous = Value::Null;
        for update in &updates {
            let kind = update["event_type"].as_str().unwrap();
            assert_eq!(kind == "FEATURE_FLAG_CREATED", previous.is_null(), "{update} after {previous}");
            if !previous.is_null() {
                assert_eq!(update["previous_version"], previous, "{update}");
                assert!(update["version"].as_u64() > previous.as_u64(), "{update} after {previous}");
            }
            assert_eq!(update["environment"], "development");
            let seen: chrono::DateTime<chrono::Utc> = update["changed_at"].as_str().unwrap().parse().unwrap();
            let published: chrono::DateTime<chrono::Utc> =
                update["published_at"].as_str().unwrap().parse().unwrap();
            assert!(seen <= published, "{update}");
            previous = if kind == "FEATURE_FLAG_DELETED" { Value::Null } else { update["version"].clone() };
        }
        assert_eq!(
            defined,
            told.iter().map(|(_, version)| *version).collect::<Vec<_>>(),
            "definitions of {name}"
        );
        told
    }

    /// Evaluates the flag for a user until the answer comes from this version (or a newer one).
    fn evaluated(&mut self, flag: &str, version: u64, members: &Value) -> Value {
        let name = self.admin.name(flag);
        let mut request = json!({"flag_name": name, "user_id": "user-1"});
        request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let body = request.to_string();
        wait_for(&format!("{name} evaluated at version {version}"), TEST_TIMEOUT, || {
            let asked = self.sender.send(&self.group.topics.requests, Some(0), None, body.as_bytes(), None);
            let event = self.events.wait("its event", TEST_TIMEOUT, |event| {
                let body = event.json();
                body["source"]["partition"] == asked.0 && body["source"]["offset"] == asked.1
            });
            let event = event.json();
            (event["flag_version"].as_u64().unwrap_or_default() >= version).then_some(event)
        })
    }

    fn hint(&self, body: &Value) {
        let key = body["flag_name"].as_str().map(str::as_bytes);
        self.sender.send(&self.group.topics.changes, None, key, body.to_string().as_bytes(), None);
    }
}

/// The version of a definition, of a tombstone, or of an invalidation.
fn version(record: &Received) -> u64 {
    match &record.payload {
        Some(_) => record.json()["version"].as_u64().unwrap(),
        None => record.header("version").unwrap().parse().unwrap(),
    }
}

fn kinds(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(|(kind, _)| kind.as_str()).collect()
}

fn is_leader(service: &Service) -> bool {
    service.metrics().sum("flagstream_feed_leader", &[]) == 1.0
}

#[test]
fn a_flags_life_is_told_from_creation_to_archive() {
    let (stack, _shared) = Stack::shared();
    let mut feed = Feed::new(stack, "200ms");
    feed.admin.create("life", &rollout(&json!([])));
    let _service = feed.group.start("one");
    let created = feed.defined("created", "life", |flag| flag["enabled"] == true);
    let announcement = feed.announced(created);
    assert_eq!(announcement["event_type"], "FEATURE_FLAG_CREATED");
    assert_eq!(announcement["actor"], "unleash");
    assert_eq!(feed.evaluated("life", created, &json!({}))["typed_value"], true);
    let now = u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap();
    assert!((now - 60_000..now + 60_000).contains(&created), "versions begin with the time: {created}");

    feed.admin.turn_off("life");
    let changed = feed.defined("turned off", "life", |flag| flag["enabled"] == false);
    assert_eq!(feed.announced(changed)["previous_version"], created);
    assert_eq!(feed.evaluated("life", changed, &json!({}))["typed_value"], false);

    feed.admin.archive("life");
    let deleted = feed.deleted("life");
    assert_eq!(feed.announced(deleted)["event_type"], "FEATURE_FLAG_DELETED");
    wait_until("unknown from now on", TEST_TIMEOUT, || {
        feed.evaluated("life", 0, &json!({}))["error_code"] == "FLAG_NOT_FOUND"
    });
    let told = feed.assert_consistent("life");
    assert_eq!(kinds(&told), ["FEATURE_FLAG_CREATED", "FEATURE_FLAG_UPDATED", "FEATURE_FLAG_DELETED"]);
}

#[test]
fn a_segments_change_is_a_change_of_the_flags_that_use_it() {
    let (stack, _shared) = Stack::shared();
    let mut feed = Feed::new(stack, "200ms");
    let constraint = |region: &str| json!([{"contextName": "region", "operator": "IN", "values": [region]}]);
    let segment = feed.admin.create_segment("coast", &constraint("west"));
    let mut strategy = rollout(&json!([]));
    strategy["segments"] = json!([segment]);
    feed.admin.create("with-segment", &strategy);
    feed.admin.create("without", &rollout(&json!([])));
    let _service = feed.group.start("one");
    let first = feed.defined("inlined", "with-segment", |flag| flag.to_string().contains("west"));
    feed.defined("the other", "without", |_| true);
    let west = json!({"context": {"region": "west"}});
    let east = json!({"context": {"region": "east"}});
    assert_eq!(feed.evaluated("with-segment", first, &west)["typed_value"], true);
    assert_eq!(feed.evaluated("with-segment", first, &east)["typed_value"], false);

    feed.admin.change_segment(segment, "coast", &constraint("east"));
    let second =
        feed.defined("the new segment inlined", "with-segment", |flag| flag.to_string().contains("east"));
    assert_eq!(feed.announced(second)["event_type"], "FEATURE_FLAG_UPDATED");
    assert_eq!(feed.evaluated("with-segment", second, &west)["typed_value"], false);
    assert_eq!(feed.evaluated("with-segment", second, &east)["typed_value"], true);
    feed.assert_consistent("with-segment");
    assert_eq!(kinds(&feed.assert_consistent("without")), ["FEATURE_FLAG_CREATED"]);
}

#[test]
fn variants_of_both_kinds_come_through() {
    let (stack, _shared) = Stack::shared();
    let mut feed = Feed::new(stack, "200ms");
    let variant = |name: &str, value: &str| {
        json!([{
            "name": name, "weight": 1000, "weightType": "variable", "stickiness": "default",
            "payload": {"type": "string", "value": value},
        }])
    };
    let mut strategy = rollout(&json!([]));
    strategy["variants"] = variant("of-strategy", "dark");
    feed.admin.create("strategy-variant", &strategy);
    feed.admin.create("flag-variant", &rollout(&json!([])));
    feed.admin.set_variants("flag-variant", &variant("of-flag", "bright"));
    let _service = feed.group.start("one");
    for (flag, name, value) in
        [("strategy-variant", "of-strategy", "dark"), ("flag-variant", "of-flag", "bright")]
    {
        let version = feed.defined("with variant", flag, |flag| flag.to_string().contains(name));
        let event = feed.evaluated(flag, version, &json!({"default_value": "light"}));
        assert_eq!((&event["variant"], &event["typed_value"]), (&json!(name), &json!(value)));
    }
    feed.admin.set_variants("flag-variant", &variant("of-flag", "brighter"));
    let version = feed.defined("changed", "flag-variant", |flag| flag.to_string().contains("brighter"));
    let event = feed.evaluated("flag-variant", version, &json!({"default_value": "light"}));
    assert_eq!(event["typed_value"], "brighter");
    feed.assert_consistent("flag-variant");
}

#[test]
fn a_hint_makes_a_change_seen_at_once() {
    let (stack, _shared) = Stack::shared();
    let mut feed = Feed::new(stack, "1h");
    feed.admin.create("hinted", &rollout(&json!([])));
    let service = feed.group.start("one");
    let created = feed.defined("created", "hinted", |_| true);
    wait_until("leads", TEST_TIMEOUT, || is_leader(&service));
    let name = feed.admin.name("hinted");
    let hints = [
        json!({"event_type": "FEATURE_FLAG_UPDATED", "flag_name": name, "environment": "development"}),
        json!({"event_type": "FEATURE_FLAG_UPDATED"}),
        json!({
            "id": 17, "type": "feature-environment-enabled", "createdBy": "admin", "createdByUserId": -1,
            "createdAt": "2026-01-15T10:30:00Z", "data": null, "preData": null, "tags": [],
            "featureName": name, "project": "default", "environment": "development",
        }),
        json!({"anything": "else"}),
    ];
    let key = feed.key("hinted");
    let (mut on, mut last) = (true, created);
    for hint in hints {
        on = !on;
        if on {
            feed.admin.turn_on("hinted")
        } else {
            feed.admin.turn_off("hinted")
        }
        let started = Instant::now();
        feed.hint(&hint);
        let record = feed.definitions.wait("seen", TEST_TIMEOUT, |record| {
            let body = record.json();
            record.key.as_deref() == Some(&key)
                && body["version"].as_u64() > Some(last)
                && body["definition"]["enabled"] == on
        });
        last = record.json()["version"].as_u64().unwrap();
        println!("seen {:?} after the hint {hint}", started.elapsed());
    }
    feed.announced(last);
    let told = feed.assert_consistent("hinted");
    assert_eq!(told.len(), 5, "{told:?}");
}

#[test]
fn another_leads_when_the_leader_is_killed() {
    let (stack, _shared) = Stack::shared();
    let mut feed = Feed::new(stack, "200ms");
    feed.admin.create("handed-on", &rollout(&json!([])));
    let mut services = [feed.group.start("a"), feed.group.start("b")];
    feed.defined("created", "handed-on", |_| true);
    for round in 0..2 {
        let leader = wait_for("one leads", TEST_TIMEOUT, || {
            let leading: Vec<_> = (0..2).filter(|index| is_leader(&services[*index])).collect();
            (leading.len() == 1).then(|| leading[0])
        });
        services[leader].kill();
        feed.admin.set_variants("handed-on", &json!([{
            "name": format!("round-{round}"), "weight": 1000, "weightType": "variable", "stickiness": "default",
        }]));
        let version = feed.defined("seen by the other", "handed-on", |flag| {
            flag.to_string().contains(&format!("round-{round}"))
        });
        feed.announced(version);
        services[leader].spawn();
        services[leader].wait_until_ready();
        feed.evaluated("handed-on", version, &json!({}));
    }
    let told = feed.assert_consistent("handed-on");
    let expected = ["FEATURE_FLAG_CREATED", "FEATURE_FLAG_UPDATED", "FEATURE_FLAG_UPDATED"];
    assert_eq!(kinds(&told), expected, "none is told twice: {told:?}");
}

#[test]
fn nothing_that_unleash_may_answer_wipes_flags() {
    let (stack, _shared) = Stack::shared();
    let mut feed = Feed::new(stack, "200ms");
    let flags: Vec<_> = (0..24).map(|number| (format!("kept-{number}"), rollout(&json!([])))).collect();
    feed.admin.create_all(&flags);
    let service = feed.group.start("one");
    let mut versions = BTreeMap::new();
    for (flag, _) in &flags {
        versions.insert(flag.clone(), feed.defined("created", flag, |flag| flag["enabled"] == true));
    }
    let moods = [
        (Mood::Down, 2),
        (Mood::EmptyBody, 2),
        (Mood::Truncated, 2),
        (Mood::NotFeatures, 2),
        (Mood::ErrorPage, 2),
        (Mood::Unauthorized, 2),
        (Mood::Failing, 2),
        (Mood::TooMany, 2),
        (Mood::Slow, 1),
        (Mood::Oversized, 1),
        // The first of these is not believed; a second one that agrees would be.
        (Mood::Quarter, 1),
        (Mood::EmptyList, 1),
    ];
    let mut variant = 0;
    for (mood, times) in moods {
        if matches!(mood, Mood::Quarter | Mood::EmptyList) {
            feed.proxy.answer_once(mood);
        } else {
            feed.proxy.answer(mood, times);
            // A request that gets no answer ends after 30 s.
            wait_until(&format!("{mood:?} shows in health"), TEST_TIMEOUT * 2, || {
                let (_, health) = get(&format!("{}/health", service.url)).unwrap();
                let health: Value = serde_json::from_str(&health).unwrap();
                health.to_string().contains("\"error\":{")
            });
            // The answers go on meanwhile.
            let event = feed.evaluated("kept-0", versions["kept-0"], &json!({}));
            assert_eq!(event["typed_value"], true, "{mood:?}: {event}");
        }
        feed.proxy.set(Mood::Good);
        // The sign of life: what changed meanwhile is seen, so whatever the bad answers did would be as well.
        variant += 1;
        let name = format!("after-{variant}");
        feed.admin.set_variants(
            "kept-0",
            &json!([{
                "name": name, "weight": 1000, "weightType": "variable", "stickiness": "default",
            }]),
        );
        let version =
            feed.defined(&format!("seen after {mood:?}"), "kept-0", |flag| flag.to_string().contains(&name));
        feed.announced(version);
        versions.insert("kept-0".to_owned(), version);
    }
    for (flag, _) in &flags[1..] {
        assert_eq!(kinds(&feed.assert_consistent(flag)), ["FEATURE_FLAG_CREATED"], "{flag}");
        let key = feed.key(flag);
        assert_eq!(
            feed.definitions.seen.iter().filter(|record| record.key.as_deref() == Some(&key)).count(),
            1
        );
    }
    feed.assert_consistent("kept-0");

    // Two answers in a row that agree are believed.
    feed.proxy.set(Mood::Quarter);
    feed.deleted("kept-9");
    feed.proxy.set(Mood::Good);
    feed.updates.until("created anew", TEST_TIMEOUT, |seen| {
        let created =
            seen.iter().filter(|record| record.json()["event_type"] == "FEATURE_FLAG_CREATED").count();
        created == 24 + 18
    });
    feed.events.until("and told", TEST_TIMEOUT, |seen| {
        seen.iter().filter(|record| record.json()["event_type"] == "FEATURE_FLAG_CREATED").count() == 24 + 18
    });
    let told = feed.assert_consistent("kept-9");
    assert_eq!(kinds(&told), ["FEATURE_FLAG_CREATED", "FEATURE_FLAG_DELETED", "FEATURE_FLAG_CREATED"]);
}

#[test]
fn unleash_learns_who_asks_and_how_often() {
    let (stack, _shared) = Stack::shared();
    let mut feed = Feed::new(stack, "200ms");
    // Unleash ignores counts of flags that it has known for less than ten seconds, so a report must not come earlier.
    feed.group = feed.group.set("UNLEASH_METRICS_INTERVAL", "12s");
    feed.admin.create(
        "counted",
        &rollout(&json!([{"contextName": "region", "operator": "IN", "values": ["west"]}])),
    );
    let _service = feed.group.start("one");
    let version = feed.defined("created", "counted", |flag| flag["enabled"] == true);
    for _ in 0..3 {
        feed.evaluated("counted", version, &json!({"context": {"region": "west"}}));
    }
    for _ in 0..2 {
        feed.evaluated("counted", version, &json!({"context": {"region": "east"}}));
    }
    let path = format!("/client-metrics/features/{}/raw", feed.admin.name("counted"));
    let prefix = feed.group.topics.prefix.clone();
    let sum = |metrics: &Value, member: &str| -> u64 {
        let rows = metrics["data"].as_array().unwrap().iter().filter(|row| row["appName"] == prefix.as_str());
        rows.map(|row| row[member].as_u64().unwrap()).sum()
    };
    let name = feed.admin.name("counted");
    let evaluated = |enabled: bool| {
        let events = feed.events.seen.iter().map(Received::json);
        let count = events.filter(|event| event["flag_name"] == name && event["enabled"] == enabled).count();
        u64::try_from(count).unwrap()
    };
    let expected = (evaluated(true), evaluated(false));
    assert!(expected >= (3, 2), "{expected:?}");
    wait_until(&format!("Unleash has {expected:?}"), TEST_TIMEOUT * 2, || {
        let metrics = feed.admin.read(&path).unwrap();
        (sum(&metrics, "yes"), sum(&metrics, "no")) == expected
    });
    wait_until("Unleash knows the application", TEST_TIMEOUT * 2, || {
        feed.admin.read(&format!("/metrics/applications/{prefix}")).is_some()
    });
}
