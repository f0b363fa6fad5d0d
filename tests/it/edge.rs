//! The edge API, and where evaluations over HTTP are looked for.

mod read_path;
mod stale;
mod update;

use serde_json::{Value, json};

use crate::harness::{
    Answer, Flag, Flags, Group, OpenApiValidator, Redis, Service, Stack, TEST_TIMEOUT, TcpProxy, TopicReader,
    Way, call, wait_until,
};

/// One instance with the demo's flags and a Redis.
struct Fixture {
    group: Group,
    service: Service,
    redis: Redis,
    events: TopicReader,
    contract: OpenApiValidator,
    version: u64,
}

const ENVIRONMENT: &str = "production";

fn rollout(name: &str, percentage: &str) -> Flag {
    let parameters = json!({"rollout": percentage, "stickiness": "default", "groupId": name});
    Flag::on(name).body(json!({"name": name, "enabled": true, "type": "release", "project": "shop",
        "description": "a demo", "strategies": [{"name": "flexibleRollout", "parameters": parameters}]}))
}

/// Instances whose callers may read without a token.
fn readable(stack: &Stack) -> Group {
    Group::new(stack).set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read")
}

impl Fixture {
    fn start(stack: &Stack) -> Self {
        let redis = Redis::database(stack);
        let url = redis.url.clone();
        Self::start_at(readable(stack), redis, &url)
    }

    /// Starts the fixture with another URL of the same database.
    fn start_at(group: Group, redis: Redis, url: &str) -> Self {
        Self::start_as(group, redis, url, "evaluator,feeder,warmer,api")
    }

    fn start_as(group: Group, redis: Redis, url: &str, roles: &str) -> Self {
        let group = group.set("REDIS_URL", url).set("UNLEASH_ENVIRONMENT", ENVIRONMENT);
        let mut flags = Flags::new(&group.topics);
        let demo = [
            rollout("new_checkout_flow", "50"),
            rollout("beta_features", "10"),
            Flag::off("dark_mode"),
            rollout("experimental_api", "25"),
            rollout("everybody", "100"),
            Flag::on("themed").variant("dark", Some(("string", "dark"))),
            Flag::on("a/b c%é"),
        ];
        let version = demo.map(|flag| flags.set(ENVIRONMENT, flag)).into_iter().max().unwrap();
        let mut service = group.prepare("one").roles(roles);
        service.spawn();
        service.wait_until_ready();
        let in_force = || service.metrics().sum("flagstream_store_version", &[]) >= version as f64;
        wait_until("all flags in force", TEST_TIMEOUT, in_force);
        let events = TopicReader::open(&group.topics.kafka, &group.topics.events);
        let contract = OpenApiValidator::of(&service.url);
        Self { service, redis, events, contract, version, group }
    }

    /// Any call; `template` as the document has its path.
    fn call(&self, method: &str, template: &str, path: &str) -> Answer {
        let answer = call(method, &format!("{}{path}", self.service.url), &[], b"");
        self.contract.check(method, template, &answer);
        answer
    }

    /// A call that is answered.
    fn get(&self, path: &str) -> Value {
        let template = match path.split('?').next().unwrap() {
            list @ ("/flags" | "/cache/stats") => list,
            check if check.ends_with("/check") => "/flags/{name}/check",
            _ => "/flags/{name}",
        };
        let answer = self.call("GET", template, path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Asks until it is answered from Redis.
    fn hit(&self, path: &str) -> Value {
        let mut answer = Value::Null;
        wait_until(&format!("{path} is kept"), TEST_TIMEOUT, || {
            answer = self.get(path);
            answer["_cache"] == "hit"
        });
        answer
    }

    fn event(&mut self, id: &Value) -> Value {
        self.events.wait("its event", TEST_TIMEOUT, |event| event.json()["event_id"] == *id).json()
    }

    fn life(&self, key: &str) -> i64 {
        self.redis.command(&["PTTL", key])
    }
}

#[test]
fn a_flag_is_checked_and_the_second_answer_comes_from_redis() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::start(stack);
    let path = "/flags/new_checkout_flow/check?user_id=user123";
    let first = fixture.get(path);
    assert_eq!(first["_cache"], "miss");
    let second = fixture.hit(path);
    for answer in [&first, &second] {
        let event = fixture.event(&answer["event_id"]);
        assert_eq!(event["source"], json!({"api": "edge"}));
        for (member, expected) in [
            ("flag_name", &json!("new_checkout_flow")),
            ("user_id", &json!("user123")),
            ("environment", &json!(ENVIRONMENT)),
            ("enabled", &first["enabled"]),
            ("typed_value", &first["enabled"]),
            ("reason", &first["reason"]),
            ("flag_version", &first["flag_version"]),
        ] {
            assert_eq!(event[member], *expected, "{member}: {event}");
        }
    }
    for member in ["enabled", "variant", "reason", "error_code", "flag_version", "environment"] {
        assert_eq!(first[member], second[member], "{member}");
    }
    assert_ne!(first["event_id"], second["event_id"]);
    let key = format!("flag_check:{ENVIRONMENT}:new_checkout_flow:user123");
    assert_eq!(fixture.redis.get(&key).unwrap()["enabled"], first["enabled"]);
    assert!((1..=30_000).contains(&fixture.life(&key)), "{}", fixture.life(&key));

    // The same flag says the same through every path.
    let body = json!({"flag_name": "new_checkout_flow", "user_id": "user123", "environment": ENVIRONMENT});
    let rest = crate::harness::post(&format!("{}/api/v1/feature-flags/evaluate", fixture.service.url), &body);
    assert_eq!(rest.json()["value"], first["enabled"]);

    let metrics = fixture.service.metrics();
    let reads =
        |outcome| metrics.sum("flagstream_edge_reads_total", &[("layer", "check"), ("outcome", outcome)]);
    assert!(reads("hit") >= 1.0 && reads("absent") >= 1.0);
    wait_until("counted", TEST_TIMEOUT, || {
        let metrics = fixture.service.metrics();
        let evaluated = metrics.sum("flagstream_evaluations_total", &[("path", "edge")]);
        evaluated >= 2.0
            && metrics.sum("flagstream_events_published_total", &[])
                == metrics.sum("flagstream_evaluations_total", &[])
    });
}

#[test]
fn details_and_lists_are_kept_in_their_layers() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::start(stack);
    let path = "/flags/new_checkout_flow?user_id=user123";
    let first = fixture.get(path);
    let second = fixture.hit(path);
    let version = first["flag_version"].clone();
    let data = json!({"enabled": true, "rollout_percentage": 50, "metadata": {"version": version, "type": "release",
        "project": "shop", "description": "a demo", "stale": false, "variants": []}});
    for (answer, cache) in [(&first, "miss"), (&second, "hit")] {
        assert_eq!((&answer["flag_name"], &answer["_cache"]), (&json!("new_checkout_flow"), &json!(cache)));
        assert_eq!(answer["flag_data"], data);
        assert_eq!(answer["enabled"], first["enabled"]);
        assert_eq!(fixture.event(&answer["event_id"])["source"]["api"], "edge");
    }
    let themed = fixture.hit("/flags/themed?user_id=u");
    assert_eq!(
        (&themed["variant"], &themed["flag_data"]["metadata"]["variants"]),
        (&json!("dark"), &json!(["dark"]))
    );

    let list = fixture.get("/flags");
    let flags = list["flags"].as_array().unwrap();
    let off = flags.iter().find(|flag| flag["flag_name"] == "dark_mode").unwrap();
    assert_eq!((&off["enabled"], flags.len()), (&json!(false), 7));
    let tenth = flags.iter().find(|flag| flag["flag_name"] == "beta_features").unwrap();
    assert_eq!(tenth["rollout_percentage"], 10);
    assert_eq!((&list["_cache"], &list["flags_version"]), (&json!("miss"), &json!(fixture.version)));
    let kept = fixture.hit("/flags");
    assert_eq!((&kept["flags"], &kept["flags_version"]), (&list["flags"], &list["flags_version"]));

    for (key, seconds) in [
        (format!("flag_endpoint:{ENVIRONMENT}:new_checkout_flow:user123"), 60),
        (format!("flag_endpoint:{ENVIRONMENT}"), 60),
        (format!("feature_flag:data:{ENVIRONMENT}:new_checkout_flow"), 300),
    ] {
        let life = fixture.life(&key);
        assert!((1..=seconds * 1_000).contains(&life), "{key}: {life}");
        assert!(life > (seconds - 30) * 1_000, "{key}: {life}");
    }

    let stats = fixture.get("/cache/stats");
    assert_eq!(stats["redis"]["state"], "up");
    assert!(stats["redis"]["keys"].as_u64() >= Some(3), "{stats}");
    assert!(stats["hits"].as_u64() >= Some(3) && stats["misses"].as_u64() >= Some(3), "{stats}");
    assert_eq!(stats["ttl_seconds"], json!({"check": 30, "endpoint": 60, "data": 300}));

    // By hand: what was kept is gone, and comes back.
    fixture.hit("/flags/new_checkout_flow/check?user_id=user123");
    let cleared = fixture.call("DELETE", "/flags/{name}/cache", "/flags/new_checkout_flow/cache");
    assert_eq!(cleared.status, 401, "not without a token: {cleared:?}");
}

#[test]
fn what_is_kept_of_a_flag_is_removed_by_hand() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack).set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write");
    let redis = Redis::database(stack);
    let url = redis.url.clone();
    let fixture = Fixture::start_at(group, redis, &url);
    let paths = [
        "/flags/everybody/check?user_id=a",
        "/flags/everybody/check?user_id=b",
        "/flags/everybody?user_id=a",
        "/flags",
        "/flags/dark_mode/check?user_id=a",
    ];
    paths.iter().for_each(|path| drop(fixture.hit(path)));
    let clear = |flag: &str| fixture.call("DELETE", "/flags/{name}/cache", &format!("/flags/{flag}/cache"));
    let cleared = clear("everybody").json();
    assert_eq!((&cleared["flag_name"], &cleared["removed_keys"]), (&json!("everybody"), &json!(4)));
    for pattern in ["flag_check:*everybody*", "flag_endpoint:*everybody*", "feature_flag:data:*everybody"] {
        assert_eq!(fixture.redis.command::<Vec<String>>(&["KEYS", pattern]), Vec::<String>::new());
    }
    assert_eq!(fixture.get(paths[4])["_cache"], "hit", "of another flag");
    paths.iter().for_each(|path| drop(fixture.hit(path)));
    assert_eq!(clear("nobody-made-it").status, 404);
}

#[test]
fn names_scopes_and_bad_input() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate")
        .set("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", "a-token-for-the-test");
    let redis = Redis::database(stack);
    let url = redis.url.clone();
    let mut fixture = Fixture::start_at(group, redis, &url);
    let odd = fixture.get("/flags/a%2Fb%20c%25%C3%A9/check");
    assert_eq!((&odd["flag_name"], &odd["enabled"]), (&json!("a/b c%é"), &json!(true)));
    assert_eq!(fixture.hit("/flags/a%2Fb%20c%25%C3%A9/check?user_id=a%3Ab%25")["enabled"], true);

    let unknown = fixture.call("GET", "/flags/{name}/check", "/flags/nobody-made-it/check?user_id=u-unknown");
    assert_eq!(unknown.status, 404);
    let event = fixture
        .events
        .wait("of an unknown flag too", TEST_TIMEOUT, |event| event.json()["user_id"] == "u-unknown");
    assert_eq!(event.json()["error_code"], "FLAG_NOT_FOUND");
    let elsewhere = fixture.get("/flags/everybody/check?environment=nowhere");
    assert_eq!(
        (&elsewhere["enabled"], &elsewhere["error_code"]),
        (&json!(false), &json!("PROVIDER_NOT_READY"))
    );

    let scoped = [
        ("GET", "/flags/{name}", "/flags/everybody"),
        ("GET", "/flags", "/flags"),
        ("GET", "/cache/stats", "/cache/stats"),
        ("DELETE", "/flags/{name}/cache", "/flags/everybody/cache"),
    ];
    for (method, template, path) in scoped {
        assert_eq!(fixture.call(method, template, path).status, 401, "{method} {path}");
        let token = [("authorization", "Bearer a-token-for-the-test")];
        let answer = call(method, &format!("{}{path}", fixture.service.url), &token, b"");
        assert_eq!(answer.status, 200, "{method} {path}");
    }
    let wrong = fixture.call("GET", "/flags/{name}/check", "/flags/everybody/check?min_version=soon");
    assert_eq!((wrong.status, &wrong.json()["errors"][0]["field"]), (400, &json!("min_version")));
    let wrong = fixture.call("GET", "/flags/{name}/check", "/flags/%FF/check");
    assert_eq!(wrong.status, 400, "{wrong:?}");
    let ahead = format!("/flags/everybody/check?min_version={}", fixture.version + 1_000_000);
    assert_eq!(fixture.call("GET", "/flags/{name}/check", &ahead).status, 503);
}

#[test]
fn without_redis_everything_is_answered_from_memory() {
    let (stack, _shared) = Stack::shared();
    let redis = Redis::database(stack);
    let door = TcpProxy::to(&redis.url);
    let url = door.url.clone();
    let fixture = Fixture::start_at(readable(stack), redis, &url);
    let path = "/flags/new_checkout_flow/check?user_id=user123";
    let enabled = fixture.hit(path)["enabled"].clone();
    for way in [Way::Shut, Way::Slow, Way::Garbled] {
        door.set(way);
        for number in 0..200 {
            let begun = std::time::Instant::now();
            let answer = fixture.get(if number % 2 == 0 { path } else { "/flags/everybody?user_id=u" });
            if number % 2 == 0 {
                assert_eq!(answer["enabled"], enabled);
            }
            // Its answers come five seconds late.
            assert!(begun.elapsed().as_millis() < 2_500, "{way:?}: {:?}", begun.elapsed());
            assert_eq!(answer["_cache"], "miss", "{way:?}");
        }
        assert_eq!(fixture.get("/cache/stats")["redis"]["state"], "down");
        door.set(Way::Open);
        fixture.hit(path);
    }
    let metrics = fixture.service.metrics();
    assert!(metrics.sum("flagstream_edge_reads_total", &[("outcome", "unavailable")]) >= 600.0);
    assert_eq!(fixture.service.health()["parts"]["redis"]["state"], "up");
}
