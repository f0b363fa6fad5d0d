//! Tokens: of Unleash, of this service, pre-trusted, revoked, and those that fit another path.

use super::{Fixture, ask, ask_with, names};
use crate::harness::{Mood, Stack, TEST_TIMEOUT, call, flagstream, wait_until};

const FEATURES: &str = "/api/client/features";
const FRONTEND: &str = "/api/frontend";

#[test]
fn a_token_is_for_one_kind_of_sdks_and_refusals_are_final_only_if_unleash_refuses() {
    let (stack, _shared) = Stack::shared();
    let database = crate::harness::Database::create(stack);
    let fixture = Fixture::new(stack).set("DATABASE_URL", &database.url);
    let fixture = fixture.set(
        "FLAGSTREAM_UNLEASH_API__PRETRUSTED_TOKENS",
        "backend=*:development.trusted,frontend=elsewhere:development.trusted,proxy-secret@development",
    );
    fixture.flags(&["steady"]);
    let flag = fixture.admin.name("steady");
    let service = fixture.group.start("one");
    let own = |arguments: &[&str]| {
        let settings = fixture.group.settings();
        let mut all = vec!["token", "create", "--name", "sdk", "--scopes", "evaluate", "--environments"];
        all.extend(arguments);
        let output = flagstream(fixture.group.folder.path(), &all, settings);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (any, only_frontend) = (own(&["development"]), own(&["development", "--kind", "frontend"]));
    let (elsewhere, restricted) =
        (own(&["production"]), own(&["development", "--flag-prefixes", "something-else"]));
    let table: [(&str, Option<&str>, u16, u16); 12] = [
        ("no token", None, 401, 401),
        ("an empty token", Some(""), 401, 401),
        ("an unknown token", Some("*:development.0000000000000000000000"), 403, 403),
        ("text in any other form", Some("not-a-token"), 403, 403),
        ("a backend token of Unleash", Some(&fixture.backend), 200, 403),
        ("a frontend token of Unleash", Some(&fixture.frontend), 403, 200),
        ("an admin token of Unleash", Some(&stack.unleash.admin_token), 403, 403),
        ("a pre-trusted backend token", Some("*:development.trusted"), 200, 403),
        ("a legacy proxy secret", Some("proxy-secret@development"), 403, 200),
        ("a token of this service", Some(&any), 200, 200),
        ("one for frontend SDKs", Some(&only_frontend), 403, 200),
        ("one that was made up", Some("fst_0000000000000000_00"), 403, 403),
    ];
    for (what, token, client, frontend) in table {
        for (path, expected) in [(FEATURES, client), (FRONTEND, frontend)] {
            let answer = ask(&service, path, token);
            assert_eq!(answer.status, expected, "{what}: {path}: {answer:?}");
            if expected == 200 {
                assert_eq!(names(&answer), std::slice::from_ref(&flag), "{what}: {path}");
            }
        }
    }
    let bearer = ask(&service, FEATURES, Some(&format!("Bearer {}", fixture.backend)));
    assert_eq!(names(&bearer), std::slice::from_ref(&flag));
    assert!(names(&ask(&service, FRONTEND, Some("elsewhere:development.trusted"))).is_empty());
    assert!(names(&ask(&service, FEATURES, Some(&restricted))).is_empty());
    // The environment of this token is not served here.
    assert_eq!(ask(&service, FEATURES, Some(&elsewhere)).status, 503);
    let named = ask_with(&service, FEATURES, Some(&any), &[("flags-environment", "production")]);
    assert_eq!(named.status, 403, "{named:?}");
}

#[test]
fn a_token_that_unleash_has_deleted_is_refused_and_its_streams_end() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack).set("FLAGSTREAM_UNLEASH_API__TOKEN_REVALIDATION", "1s");
    fixture.flags(&["steady"]);
    let service = fixture.group.start("one");
    let listeners = || service.metrics().sum("flagstream_http_listeners", &[]);
    let url = format!("{}/api/client/streaming", service.url);
    let token = fixture.backend.clone();
    let stream = std::thread::spawn(move || {
        crate::harness::block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let response = client.get(url).header("authorization", token).send().await.unwrap();
            response.text().await.unwrap()
        })
    });
    wait_until("the stream is open", TEST_TIMEOUT, || listeners() == 1.0);
    // A revocation needs an explicit answer.
    fixture.proxy.set(Mood::Down);
    let failed =
        || service.metrics().sum("flagstream_unleash_api_validations_total", &[("outcome", "failed")]);
    wait_until("a validation has failed", TEST_TIMEOUT, || failed() >= 1.0);
    assert_eq!(ask(&service, FEATURES, Some(&fixture.backend)).status, 200);
    assert_eq!(listeners(), 1.0);
    fixture.admin.delete_token(&fixture.backend);
    fixture.proxy.set(Mood::TokensRevoked);
    wait_until("the token is refused", TEST_TIMEOUT, || {
        ask(&service, FEATURES, Some(&fixture.backend)).status == 403
    });
    let whole = stream.join().unwrap();
    assert!(
        whole.starts_with("event: unleash-connected\nid: 1\ndata: {\"events\":[{\"type\":\"hydration\""),
        "{whole}"
    );
    wait_until("no stream is left", TEST_TIMEOUT, || listeners() == 0.0);
}

#[test]
fn an_instance_accepts_a_token_that_another_has_validated_before_an_outage() {
    let (stack, _shared) = Stack::shared();
    let database = crate::harness::Database::create(stack);
    let fixture = Fixture::new(stack).set("DATABASE_URL", &database.url);
    fixture.flags(&["steady"]);
    let (one, two) = (fixture.group.start("one"), fixture.group.start("two"));
    assert_eq!(ask(&one, FRONTEND, Some(&fixture.frontend)).status, 200);
    fixture.proxy.set(Mood::Down);
    assert_eq!(ask(&two, FRONTEND, Some(&fixture.frontend)).status, 200);
    assert_eq!(ask(&two, FEATURES, Some(&fixture.frontend)).status, 403, "its kind is known too");
    assert_eq!(ask(&two, FEATURES, Some(&fixture.backend)).status, 503);
}

#[test]
fn an_unknown_token_is_asked_about_once() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    fixture.flags(&["steady"]);
    let service = fixture.group.start("one");
    let ask_many = || {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let url = format!("{}{FEATURES}", service.url);
                std::thread::spawn(move || {
                    call("GET", &url, &[("authorization", "*:development.nope")], b"").status
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    };
    for _ in 0..3 {
        assert_eq!(ask_many(), [403; 8]);
    }
    let asked = service.metrics().sum("flagstream_unleash_api_validations_total", &[("outcome", "invalid")]);
    assert_eq!(asked, 1.0);
}
