//! Tokens without their database, traces without Kafka.

use std::time::Duration;

use serde_json::{Value, json};

use super::{EVALUATE, Fixture, JSON, TOKENS, Token, bootstrap, evaluate, with};
use crate::harness::{Stack, TEST_TIMEOUT, TopicReader, call, wait_until};

#[test]
fn known_tokens_count_though_the_database_is_away() {
    let (stack, exclusive) = Stack::exclusive();
    let fixture = Fixture::new(stack);
    let (one, mut two) = (fixture.start("one"), fixture.start("two"));
    let (known, other) = (fixture.token("evaluate", "production", &[]), fixture.token("evaluate", "*", &[]));
    for token in [&known, &other] {
        assert_eq!(evaluate(&one, Some(&token.header), "production").status, 200);
    }
    let stopped = stack.stop("postgres", &exclusive);
    let made_up = |digit: &str| format!("Bearer {}", unknown(digit));
    wait_until("nobody knows of a token", TEST_TIMEOUT, || {
        let answer = evaluate(&one, Some(&made_up("a")), "production");
        assert!([401, 503].contains(&answer.status), "{answer:?}");
        answer.status == 503
    });
    let answer = evaluate(&one, Some(&made_up("b")), "production");
    assert_eq!((answer.status, answer.header("retry-after")), (503, "2"), "{answer:?}");
    assert!(
        !answer.body.to_lowercase().contains("postgres") && !answer.body.contains("127.0.0.1"),
        "{answer:?}"
    );
    for token in [&known, &other] {
        let answer = evaluate(&one, Some(&token.header), "production");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(evaluate(&one, Some(&known.header), "development").status, 403, "no more than before");
    assert_eq!(evaluate(&one, Some("Bearer fst_nonsense"), "production").status, 401, "no token at all");
    assert_eq!(evaluate(&one, Some(&bootstrap()), "production").status, 200);
    let url = format!("{}{TOKENS}", one.url);
    let order = json!({"name": "n", "scopes": ["read"], "environments": ["*"]});
    for (method, body) in [("POST", &order), ("GET", &Value::Null)] {
        let answer = with(method, &url, Some(&bootstrap()), body);
        assert_eq!((answer.status, answer.header("retry-after")), (503, "5"), "{answer:?}");
    }
    let health = one.health();
    assert_eq!(health["parts"]["tokens"]["state"], "degraded", "{health}");
    let failed = fixture.command(&["list"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");

    // A process that starts meanwhile knows no token, and says so.
    two.kill();
    two.spawn();
    two.wait_until_ready();
    assert_eq!(evaluate(&two, Some(&known.header), "production").status, 503);
    drop(stopped);
    wait_until("known again", TEST_TIMEOUT, || {
        let answer = evaluate(&two, Some(&known.header), "production");
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        answer.status == 200
    });
    wait_until("made-up tokens are refused again", TEST_TIMEOUT, || {
        evaluate(&one, Some(&made_up("c")), "production").status == 401
    });
    assert!(fixture.command(&["revoke", &other.id]).status.success());
    wait_until("revoked", TEST_TIMEOUT, || evaluate(&one, Some(&other.header), "production").status == 401);
    let new: Token = fixture.token("evaluate", "*", &[]);
    assert_eq!(evaluate(&one, Some(&new.header), "production").status, 200);
}

/// A token that was never made, in the form of one.
fn unknown(digit: &str) -> String {
    let (id, secret) = (digit.repeat(16), digit.repeat(64));
    let bytes: Vec<u8> = hex(&id).chain(hex(&secret)).collect();
    format!("fst_{id}_{secret}{:08x}", crc32fast::hash(&bytes))
}

fn hex(text: &str) -> impl Iterator<Item = u8> {
    let digits: Vec<char> = text.chars().collect();
    let pairs: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect()).collect();
    pairs.into_iter().map(|pair| u8::from_str_radix(&pair, 16).unwrap())
}

#[test]
fn a_trace_survives_the_spool_and_a_kill() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (stack, exclusive) = Stack::exclusive();
    let fixture = Fixture::new(stack);
    let mut service = fixture.start("one");
    let authorization = bootstrap();
    let ask = |url: &str, user: &str, trace: &[(&str, &str)]| {
        let mut headers = vec![JSON, ("authorization", authorization.as_str())];
        headers.extend(trace);
        let body = json!({"flag_name": "on", "environment": "production", "user_id": user});
        let answer = call("POST", &format!("{url}{EVALUATE}"), &headers, body.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let stopped = stack.stop("kafka", &exclusive);
    ask(&service.url, "with", &[("traceparent", TRACE)]);
    ask(&service.url, "without", &[]);
    wait_until("events on disk", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_publish_spooled_events_total", &[]) >= 2.0
    });
    service.kill();
    drop(stopped);
    service.spawn();
    service.wait_until_ready();
    let mut events = TopicReader::open(&fixture.group.topics.kafka, &fixture.group.topics.events);
    for (user, trace) in [("with", Some(TRACE)), ("without", None)] {
        let event = events.wait("its event", TEST_TIMEOUT + Duration::from_secs(30), |event| {
            event.json()["user_id"] == user
        });
        assert_eq!(event.header("traceparent"), trace, "{user}");
    }
}
