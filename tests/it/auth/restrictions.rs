//! Tokens that are limited to flags by project, name or owner: every operation of the document, what is inside, streams,
//! and tokens made with such tokens.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{BOOTSTRAP, JSON, Stream, TOKENS, Token, bootstrap, evaluate, with};
use crate::harness::{
    Answer, Database, Flag, Flags, Group, OpenApiValidator, Redis, Service, Stack, TEST_TIMEOUT, call,
    flagstream, free_port, get, wait_until,
};

const ENVIRONMENT: &str = "production";
const SCOPES: [&str; 6] = ["evaluate", "read", "audit", "write", "delete", "admin"];
const HALVES: &[(&str, u32)] = &[("a", 500), ("b", 500)];
/// The flag, and the experiment on it, that none of the limited tokens is for.
const OUTSIDE: &str = "pay-theme";
/// Operations that name no flag in request or answer, or that separate tests cover.
const WITHOUT_FLAG: [&str; 13] = [
    "createToken",
    "listTokens",
    "revokeToken",
    "listTokenChanges",
    "syncFlags",
    "edgeGetCacheStats",
    "followChanges",
    "followEvaluations",
    "ofrepFollowChanges",
    "getCaller",
    "getCluster",
    "getReplay",
    "cancelReplay",
];
/// Operations on what belongs to no flag. They are for tokens without restrictions.
const OF_EVERYTHING: [&str; 7] = [
    "listDeadLetters",
    "getDeadLetter",
    "replayDeadLetters",
    "eraseUser",
    "getAttributes",
    "putAttributes",
    "deleteAttributes",
];
/// Operations whose answers list flags or experiments.
const LISTS: [&str; 10] = [
    "listFlags",
    "listStaleFlags",
    "cleanUpFlags",
    "listExperiments",
    "edgeListFlags",
    "ofrepEvaluateFlags",
    "listPropagation",
    "listActivity",
    "listReplays",
    "searchEvaluations",
];

/// A service with flags of two projects and of two owners, and a token for each kind of limit.
struct Fixture {
    group: Group,
    database: Database,
    service: Service,
    contract: OpenApiValidator,
    _redis: Redis,
}

impl Fixture {
    fn start(stack: &Stack) -> Self {
        let (database, redis) = (Database::create(stack), Redis::database(stack));
        let group = Group::new(stack)
            .set("DATABASE_URL", &database.url)
            .set("REDIS_URL", &redis.url)
            .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
            .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "none")
            .set("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", BOOTSTRAP)
            .set("FLAGSTREAM_UNLEASH_API__ENABLED", "true")
            .set("FLAGSTREAM_DELIVERY__SESSION_TIMEOUT", "2s");
        let mut flags = Flags::new(&group.topics);
        flags.set(ENVIRONMENT, Flag::experiment("shop-theme", HALVES).project("shop"));
        flags.set(ENVIRONMENT, Flag::on("shop-on").project("shop"));
        let version = flags.set(ENVIRONMENT, Flag::experiment(OUTSIDE, HALVES).project("pay"));
        let service = group.start("one");
        let in_force = || service.metrics().sum("flagstream_store_version", &[]) >= version as f64;
        wait_until("all flags in force", TEST_TIMEOUT, in_force);
        let contract = OpenApiValidator::of(&service.url);
        let fixture = Self { group, database, service, contract, _redis: redis };
        fixture.create("local-a", "team-a");
        fixture.create("local-b", "team-b");
        for name in ["shop-theme", OUTSIDE] {
            let design = json!({"name": name, "flag_name": name, "environment": ENVIRONMENT, "control": "a",
                "metrics": [{"name": "m"}]});
            let begun = fixture.ask("POST", "/api/v1/experiments", &bootstrap(), &design);
            assert_eq!(begun.status, 201, "{begun:?}");
        }
        fixture
    }

    /// A local flag, in force.
    fn create(&self, name: &str, owner: &str) {
        let flag = json!({"name": name, "environment": ENVIRONMENT, "is_enabled": true, "owner": owner});
        let made = self.ask("POST", "/api/v1/feature-flags", &bootstrap(), &flag);
        assert!([201, 202].contains(&made.status), "{made:?}");
        wait_until("the flag is in force", TEST_TIMEOUT, || self.value(&bootstrap(), name).0 == 200);
    }

    fn ask(&self, method: &str, path: &str, token: &str, body: &Value) -> Answer {
        with(method, &format!("{}{path}", self.service.url), Some(token), body)
    }

    /// Status and value of an evaluation.
    fn value(&self, token: &str, flag: &str) -> (u16, Value) {
        let body =
            json!({"flag_name": flag, "environment": ENVIRONMENT, "user_id": "u", "default_value": false});
        let answer = self.ask("POST", "/api/v1/feature-flags/evaluate", token, &body);
        self.contract.check("POST", "/api/v1/feature-flags/evaluate", &answer);
        let json = answer.json();
        let found = answer.status != 200 || json["error_code"] != "FLAG_NOT_FOUND";
        (if found { answer.status } else { 404 }, json["value"].clone())
    }

    /// A token made with `maker`, with all scopes and these limits.
    fn made_with(&self, maker: &str, limits: &Value) -> Answer {
        let mut order = json!({"name": "limited", "scopes": SCOPES, "environments": [ENVIRONMENT]});
        for (field, names) in limits.as_object().unwrap() {
            order[field] = names.clone();
        }
        let answer = self.ask("POST", TOKENS, maker, &order);
        self.contract.check("POST", TOKENS, &answer);
        answer
    }

    fn limited(&self, limits: &Value) -> Token {
        let made = self.made_with(&bootstrap(), limits);
        assert_eq!(made.status, 201, "{made:?}");
        Token::of(&made.json())
    }

    /// Names in a member of the items of an answer.
    fn names(&self, token: &Token, path: &str, items: &str, member: &str) -> BTreeSet<String> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let answer = self.ask(
            "GET",
            &format!("{path}{separator}environment={ENVIRONMENT}"),
            &token.header,
            &Value::Null,
        );
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let items = answer.json()[items].as_array().unwrap().clone();
        items.iter().map(|item| item[member].as_str().unwrap().to_owned()).collect()
    }
}

/// One operation of the document.
struct Operation {
    id: String,
    method: String,
    path: String,
    names_flag: bool,
}

fn operations(service: &Service) -> Vec<Operation> {
    let document = call("GET", &format!("{}/openapi.json", service.url), &[], b"").json();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            // The routes for SDKs of Unleash have another form of errors; their test is below.
            let is_open = ["health", "schemas", "unleash", "unleash-open"]
                .iter()
                .any(|tag| operation["tags"] == json!([tag]));
            if is_open || path == "/api/v1/unleash/webhook" {
                continue;
            }
            operations.push(Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase(),
                path: path.clone(),
                names_flag: path.contains("{name}") || path.contains("{key}"),
            });
        }
    }
    assert!(operations.len() >= 30, "the document has hardly any operations");
    operations
}

fn body_of(id: &str) -> Value {
    match id {
        "evaluateFlags" => json!({"flag_names": [OUTSIDE], "environment": ENVIRONMENT, "user_id": "u"}),
        "preloadCache" => json!({"flag_names": [OUTSIDE], "environment": ENVIRONMENT, "user_id": "u"}),
        "evaluateFlagList" => json!([OUTSIDE]),
        "createFlag" => json!({"name": "pay-new", "environment": ENVIRONMENT, "owner": "team-b"}),
        "createExperiment" => json!({"name": "new", "flag_name": OUTSIDE, "environment": ENVIRONMENT,
            "control": "a", "metrics": [{"name": "m"}]}),
        "evaluateFlag" | "evaluateBooleanFlag" => {
            json!({"flag_name": OUTSIDE, "environment": ENVIRONMENT, "user_id": "u"})
        }
        "cleanUpFlags" => json!({"older_than_days": 0}),
        "ofrepTrack" => json!({"trackingEventName": "m", "context": {"targetingKey": "u"},
            "trackingEventDetails": {"experiment": OUTSIDE}}),
        "startReplay" => json!({"environment": ENVIRONMENT, "flags": [OUTSIDE]}),
        "updateFlag" => json!({"description": "changed"}),
        "killFlag" | "restoreFlag" => json!({"reason": "test"}),
        _ => json!({}),
    }
}

/// Checks the answers of a limited token to an operation on a flag outside of its environments.
fn check_refused(fixture: &Fixture, token: &Token, operation: &Operation) {
    let Operation { id, method, path, names_flag } = operation;
    if WITHOUT_FLAG.contains(&id.as_str()) {
        return;
    }
    let parts: Vec<_> =
        path.split('/').map(|part| if part.starts_with('{') { OUTSIDE } else { part }).collect();
    let url = format!("{}{}?environment={ENVIRONMENT}", fixture.service.url, parts.join("/"));
    let headers = [JSON, ("flags-environment", ENVIRONMENT), ("authorization", token.header.as_str())];
    let body = if method == "GET" { String::new() } else { body_of(id).to_string() };
    let answer = call(method, &url, &headers, body.as_bytes());
    fixture.contract.check(method, path, &answer);
    let is_one = [
        "evaluateFlag",
        "evaluateBooleanFlag",
        "createFlag",
        "createExperiment",
        "ofrepTrack",
        "preloadCache",
        "startReplay",
    ];
    if OF_EVERYTHING.contains(&id.as_str()) {
        assert_eq!(answer.status, 403, "{id}: {answer:?}");
        assert!(answer.body.contains("must not be restricted"), "{id}: {answer:?}");
    } else if id == "getPropagation" {
        assert!([400, 404].contains(&answer.status), "{id}: {answer:?}");
    } else if *names_flag || is_one.contains(&id.as_str()) {
        assert_eq!(answer.status, 403, "{id}: {answer:?}");
        assert!(answer.body.contains("the token is restricted"), "{id}: {answer:?}");
    } else if ["evaluateFlags", "evaluateFlagList"].contains(&id.as_str()) {
        let json = answer.json();
        let result = json.pointer("/results").unwrap_or(&json)[OUTSIDE].clone();
        assert_eq!((answer.status, &result["error_code"]), (200, &json!("GENERAL")), "{id}: {answer:?}");
        assert_eq!(result["variant"], Value::Null, "{id}: {answer:?}");
    } else {
        assert!(
            LISTS.contains(&id.as_str()),
            "{id} is new: say here what a limited token gets of another flag"
        );
        assert_eq!(answer.status, 200, "{id}: {answer:?}");
        assert!(!answer.body.contains("pay-") && !answer.body.contains("local-b"), "{id}: {answer:?}");
    }
}

#[test]
fn no_operation_reaches_a_flag_that_a_token_is_not_for() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let old = json!({"name": "pay-old", "environment": ENVIRONMENT, "owner": "team-b", "status": "archived"});
    let old = fixture.ask("POST", "/api/v1/feature-flags", &bootstrap(), &old);
    assert!([201, 202].contains(&old.status), "{old:?}");
    wait_until("an archived flag is there to be cleaned up", TEST_TIMEOUT, || {
        let cleanup = flag("cleanup", "");
        fixture.ask("POST", &cleanup, &bootstrap(), &body_of("cleanUpFlags")).body.contains("pay-old")
    });
    let limits = [json!({"projects": ["shop"]}), json!({"flag_prefixes": ["shop-", "local-a"]})];
    for limits in limits.into_iter().chain([json!({"owners": ["team-a"]})]) {
        let token = fixture.limited(&limits);
        for operation in operations(&fixture.service) {
            println!("{limits}: {}", operation.id);
            check_refused(&fixture, &token, &operation);
        }
    }
    // Nothing of it was done, and it is as it was for others.
    let shown = fixture.ask("GET", &flag(OUTSIDE, ""), &bootstrap(), &Value::Null).json();
    assert_eq!((&shown["kill_switch"], &shown["project"]), (&Value::Null, &json!("pay")), "{shown}");
    let unknown = fixture.value(&fixture.limited(&json!({"projects": ["shop"]})).header, "nobody");
    assert_eq!(unknown, (404, json!(false)), "there is nothing to be seen of an unknown flag");
}

#[test]
fn sdks_with_a_restricted_token_see_its_flags_only() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let token = fixture.limited(&json!({"flag_prefixes": ["shop-"]}));
    let secret = token.header.trim_start_matches("Bearer ");
    for path in ["/api/frontend/all", "/api/client/features"] {
        let url = format!("{}{path}?userId=u", fixture.service.url);
        let answer = call("GET", &url, &[("authorization", secret)], b"");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.body.contains("shop-theme"), "{path}: {answer:?}");
        assert!(!answer.body.contains(OUTSIDE) && !answer.body.contains("local-"), "{path}: {answer:?}");
    }
    for path in ["/api/frontend/features", "/api/client/features"] {
        let url = format!("{}{path}/{OUTSIDE}", fixture.service.url);
        assert_eq!(call("GET", &url, &[("authorization", secret)], b"").status, 404, "{path}");
    }
}

fn flag(name: &str, action: &str) -> String {
    format!("/api/v1/feature-flags/{name}{action}?environment={ENVIRONMENT}")
}

#[test]
fn a_limited_token_may_what_its_scopes_say_with_the_flags_that_it_is_for() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let all = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let shop = fixture.limited(&json!({"projects": ["shop", "other"]}));
    let prefix = fixture.limited(&json!({"flag_prefixes": ["shop-o", "local-"]}));
    let team = fixture.limited(&json!({"owners": ["team-a"]}));
    let both = fixture.limited(&json!({"flag_prefixes": ["local-"], "owners": ["team-b"]}));
    for (token, names) in [
        (&shop, all(&["shop-theme", "shop-on"])),
        (&prefix, all(&["shop-on", "local-a", "local-b"])),
        (&team, all(&["local-a"])),
        (&both, all(&["local-b"])),
    ] {
        wait_until("the list of flags", TEST_TIMEOUT, || {
            fixture.names(token, "/api/v1/feature-flags", "items", "name") == names
        });
        assert_eq!(fixture.names(token, "/flags", "flags", "flag_name"), names);
        let ofrep = fixture.ask("POST", "/ofrep/v1/evaluate/flags", &token.header, &json!({}));
        let ofrep = ofrep.json()["flags"].as_array().unwrap().clone();
        assert_eq!(
            ofrep.iter().map(|it| it["key"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>(),
            names
        );
        let bulk = json!({"environment": ENVIRONMENT, "user_id": "u"});
        let bulk = fixture.ask("POST", "/api/v1/feature-flags/evaluate/bulk", &token.header, &bulk).json();
        assert_eq!(bulk["results"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), names);
        for name in ["shop-theme", "shop-on", "local-a", "local-b", OUTSIDE] {
            let expected = if names.contains(name) { 200 } else { 403 };
            assert_eq!(fixture.value(&token.header, name).0, expected, "{name}");
            let check = format!("/flags/{name}/check?user_id=u");
            // The second time from Redis.
            for _ in 0..2 {
                assert_eq!(fixture.ask("GET", &check, &bootstrap(), &Value::Null).status, 200, "{name}");
                assert_eq!(
                    fixture.ask("GET", &check, &token.header, &Value::Null).status,
                    expected,
                    "{name}"
                );
            }
        }
    }
    let page =
        fixture.ask("GET", "/api/v1/feature-flags?limit=1&offset=1", &shop.header, &Value::Null).json();
    assert_eq!((&page["total"], &page["items"][0]["name"]), (&json!(2), &json!("shop-theme")), "{page}");
    let experiments = fixture.names(&shop, "/api/v1/experiments", "experiments", "name");
    assert_eq!(experiments, all(&["shop-theme"]));
    let killed = fixture.ask("POST", &flag("local-a", "/kill"), &team.header, &json!({"reason": "test"}));
    assert!([200, 202].contains(&killed.status), "{killed:?}");
    let details = fixture.ask("GET", "/health", &team.header, &Value::Null).json();
    assert!(details["details"].is_string(), "details name flags: {details}");
}

#[test]
fn a_change_cannot_move_a_flag_in_or_out_of_what_a_token_is_for() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let team = fixture.limited(&json!({"owners": ["team-a"]}));
    let ask = |method: &str, path: &str, token: &Token, body: Value, expected: u16| {
        let answer = fixture.ask(method, path, &token.header, &body);
        assert_eq!(
            if answer.status == 202 { 200 } else { answer.status },
            expected,
            "{path} {body}: {answer:?}"
        );
        answer
    };
    let new = |owner: &str| json!({"name": "made", "environment": ENVIRONMENT, "owner": owner});
    let shop = fixture.limited(&json!({"projects": ["shop"]}));
    ask("POST", "/api/v1/feature-flags", &shop, new("team-a"), 403);
    let refused = ask("POST", "/api/v1/feature-flags", &team, new("team-b"), 403);
    assert!(refused.json()["detail"].as_str().unwrap().contains("owners team-a"), "{refused:?}");
    let unowned = json!({"name": "made", "environment": ENVIRONMENT});
    ask("POST", "/api/v1/feature-flags", &team, unowned, 403);
    let made = fixture.ask("POST", "/api/v1/feature-flags", &team.header, &new("team-a"));
    assert!([201, 202].contains(&made.status), "{made:?}");
    wait_until("it is in force", TEST_TIMEOUT, || fixture.value(&team.header, "made").0 == 200);

    for owner in [json!("team-b"), Value::Null] {
        let refused = ask("PUT", &flag("made", ""), &team, json!({"owner": owner}), 403);
        assert!(refused.json()["detail"].as_str().unwrap().contains("no longer allow"), "{refused:?}");
    }
    let first = ask("PUT", &flag("made", ""), &team, json!({"description": "mine"}), 200).json();
    let moved = fixture.ask("PUT", &flag("made", ""), &bootstrap(), &json!({"owner": "team-b"}));
    assert!([200, 202].contains(&moved.status), "{moved:?}");
    wait_until("it is theirs", TEST_TIMEOUT, || fixture.value(&team.header, "made").0 == 403);
    ask("PUT", &flag("made", ""), &team, json!({"description": "mine"}), 403);
    ask("DELETE", &flag("made", ""), &team, Value::Null, 403);
    // Not by going back to what it was either.
    let theirs = fixture.limited(&json!({"owners": ["team-b"]}));
    ask("POST", &flag("made", "/revert"), &theirs, json!({"revision": first["revision"]}), 403);
    let deleted = fixture.ask("DELETE", &flag("made", ""), &theirs.header, &Value::Null);
    assert!([204, 202].contains(&deleted.status), "{deleted:?}");
    wait_until("it is gone", TEST_TIMEOUT, || fixture.value(&bootstrap(), "made").0 == 404);
    // A deleted flag is still whose it was.
    ask("GET", &flag("made", "/changes"), &theirs, Value::Null, 200);
    ask("GET", &flag("made", "/changes"), &team, Value::Null, 403);
    ask("GET", &flag("nobody", "/changes"), &team, Value::Null, 403);
}

#[test]
fn a_token_made_with_a_limited_one_is_not_wider() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let own = json!({"projects": ["shop", "pay"], "flag_prefixes": ["shop-"]});
    let maker = fixture.limited(&own);
    for wider in [
        json!({}),
        json!({"projects": ["shop"]}),
        json!({"projects": ["shop", "other"], "flag_prefixes": ["shop-"]}),
        json!({"projects": ["shop"], "flag_prefixes": ["shop"]}),
        json!({"projects": [], "flag_prefixes": ["shop-"]}),
    ] {
        let refused = fixture.made_with(&maker.header, &wider);
        assert_eq!(refused.status, 403, "{wider}: {refused:?}");
    }
    let narrower = json!({"projects": ["shop"], "flag_prefixes": ["shop-t"], "owners": []});
    let made = fixture.made_with(&maker.header, &narrower);
    assert_eq!(made.status, 201, "{made:?}");
    let (child, made) = (Token::of(&made.json()), made.json());
    assert_eq!((&made["flag_prefixes"], &made["owners"]), (&json!(["shop-t"]), &json!([])), "{made}");
    assert_eq!(fixture.value(&child.header, "shop-theme").0, 200);
    assert_eq!(fixture.value(&child.header, "shop-on").0, 403);

    let wide = fixture.limited(&json!({}));
    let revoke =
        |token: &Token, by: &str| fixture.ask("DELETE", &format!("{TOKENS}/{}", token.id), by, &Value::Null);
    assert_eq!(revoke(&wide, &maker.header).status, 403);
    let listed = fixture.ask("GET", TOKENS, &maker.header, &Value::Null).json();
    let ids: BTreeSet<_> =
        listed["tokens"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(ids, BTreeSet::from([maker.id.as_str(), child.id.as_str()]));
    assert_eq!(revoke(&child, &maker.header).status, 204);

    let wrong = json!({"projects": [""], "flag_prefixes": "shop-", "owners": [5]});
    let refused = fixture.made_with(&bootstrap(), &wrong);
    assert_eq!(refused.status, 400, "{refused:?}");
    let refused = fixture.made_with(&bootstrap(), &json!({"projects": [""], "owners": ["a\nb"]}));
    let fields: Vec<_> =
        refused.json()["errors"].as_array().unwrap().iter().map(|it| it["field"].clone()).collect();
    assert_eq!((refused.status, fields), (422, vec![json!("projects"), json!("owners")]));
}

#[test]
fn limits_are_given_and_shown_on_the_command_line() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let settings = || [("DATABASE_URL".to_owned(), fixture.database.url.clone())];
    let run = |arguments: &[&str]| {
        let output = flagstream(fixture.group.folder.path(), arguments, settings());
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let base = ["token", "create", "--name", "cli", "--scopes", "evaluate", "--environments", "*"];
    let create = |more: &[&str]| run(&[&base[..], more].concat());
    let limits = ["--projects", "shop,pay", "--flag-prefixes", "shop-,pay-", "--owners", "team-a"];
    let (code, made, _) = create(&[&limits[..], &["--output", "json"]].concat());
    assert_eq!(code, Some(0));
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(
        (&made["projects"], &made["flag_prefixes"], &made["owners"]),
        (&json!(["pay", "shop"]), &json!(["pay-", "shop-"]), &json!(["team-a"]))
    );
    let (_, listed, _) = run(&["token", "list"]);
    assert!(listed.contains("projects=pay,shop  flag_prefixes=pay-,shop-  owners=team-a"), "{listed}");
    let (code, _, error) = create(&["--flag-prefixes", ""]);
    assert!(code == Some(2) && error.contains("--flag-prefixes: expected"), "{error}");
    let one =
        Token::of(&serde_json::from_str(&create(&["--projects", "shop", "--output", "json"]).1).unwrap());
    assert_eq!(evaluate(&fixture.service, Some(&one.header), ENVIRONMENT).status, 200, "an unknown flag");
    assert_eq!(fixture.value(&one.header, OUTSIDE).0, 403);

    // What cannot be read allows nothing, and a change by hand counts.
    fixture.database.run("UPDATE api_tokens SET projects = 'shop'");
    wait_until("no limit that cannot be read", TEST_TIMEOUT, || {
        fixture.value(&one.header, "shop-on").0 == 403
    });
}

#[test]
fn without_flags_in_memory_redis_answers_only_what_the_name_alone_allows() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let by_name = fixture.limited(&json!({"flag_prefixes": ["shop-"]}));
    let by_project = fixture.limited(&json!({"projects": ["shop"]}));
    let check = |service: &Service, token: &Token| -> Value {
        let url = format!("{}/flags/shop-on/check?user_id=u", service.url);
        with("GET", &url, Some(&token.header), &Value::Null).json()
    };
    wait_until("the answer is in Redis", TEST_TIMEOUT, || {
        check(&fixture.service, &by_project)["_cache"] == "hit"
    });
    // No broker listens there, and nothing is on disk.
    let kafka = format!("127.0.0.1:{}", free_port());
    let mut cut_off = fixture.group.clone().set("KAFKA_BOOTSTRAP_SERVERS", kafka).prepare("two").roles("api");
    cut_off.spawn();
    wait_until("alive", TEST_TIMEOUT, || get(&format!("{}/health/live", cut_off.url)).is_some());
    wait_until("answers from Redis", TEST_TIMEOUT, || check(&cut_off, &by_name)["_cache"] == "hit");
    let unknown = check(&cut_off, &by_project);
    assert_eq!((&unknown["_cache"], &unknown["enabled"]), (&json!("miss"), &json!(false)), "{unknown}");
    assert_eq!(unknown["error_code"], "PROVIDER_NOT_READY", "{unknown}");
}

#[test]
fn streams_tell_of_the_flags_that_a_token_is_for() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let shop = fixture.limited(&json!({"projects": ["shop"]}));
    let team = fixture.limited(&json!({"owners": ["team-a"]}));
    let mut by_project = Stream::open(&fixture.service, "/api/v1/changes", &shop);
    let mut by_owner = Stream::open(&fixture.service, "/api/v1/changes", &team);
    let mut by_prefix = Stream::open(
        &fixture.service,
        "/api/v1/changes",
        &fixture.limited(&json!({"flag_prefixes": ["pay-"]})),
    );
    let mut ofrep = Stream::open(&fixture.service, "/ofrep/v1/changes", &shop);
    let mut flags = Flags::new(&fixture.group.topics).later(1_000);
    let told = |stream: &mut Stream| -> (String, String, u64) {
        let line = stream.until("data: ");
        let told: Value = serde_json::from_str(line.trim_start_matches("data: ")).unwrap();
        let text = |member: &str| told[member].as_str().unwrap_or_default().to_owned();
        (text("event_type"), text("flag_name"), told["version"].as_u64().unwrap_or_default())
    };
    let change = |kind: &str, flag: &str, version| (format!("FEATURE_FLAG_{kind}"), flag.to_owned(), version);
    let on = |name: &str, project: &str| Flag::on(name).project(project);
    let pay = flags.set(ENVIRONMENT, on("pay-new", "pay"));
    let made = flags.set(ENVIRONMENT, on("moving", "shop"));
    assert_eq!(told(&mut by_project), change("CREATED", "moving", made), "not of the other project");
    assert_eq!(told(&mut by_prefix), change("CREATED", "pay-new", pay));
    assert!(ofrep.until("data: ").contains(&format!("v{made}")));
    // The flag leaves the project: its last event is the one that reports this.
    let moved = flags.set(ENVIRONMENT, on("moving", "pay"));
    assert_eq!(told(&mut by_project), change("UPDATED", "moving", moved));
    flags.set(ENVIRONMENT, on("moving", "pay").variant("v", None));
    flags.remove(ENVIRONMENT, "moving");
    // Each change is awaited before the next: changes of a flag that arrive together become one event, or none.
    let last = flags.set(ENVIRONMENT, on("last", "shop"));
    assert_eq!(told(&mut by_project), change("CREATED", "last", last));
    let gone = flags.remove(ENVIRONMENT, "last");
    assert_eq!(told(&mut by_project), change("DELETED", "last", gone));
    fixture.create("local-c", "team-b");
    fixture.create("local-d", "team-a");
    assert_eq!(told(&mut by_owner).1, "local-d");
}
