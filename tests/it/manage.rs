//! Local flags over HTTP: every call, each bad input, and that what was answered is in force everywhere.

mod elsewhere;
mod examples;
mod faults;
mod files;
mod model;
mod watch;

use serde_json::{Value, json};

use crate::harness::{
    Answer, Database, Group, OpenApiValidator, Received, Service, Stack, TEST_TIMEOUT, TopicReader, call,
    get, wait_until,
};

const FLAGS: &str = "/api/v1/feature-flags";
const ONE: &str = "/api/v1/feature-flags/{name}";
const HISTORY: &str = "/api/v1/feature-flags/{name}/history";
const CHANGES: &str = "/api/v1/feature-flags/{name}/changes";
const ODD_NAME: &str = "a/b%2F c?d#é🚩";

/// Instances with a separate database.
struct Fixture {
    group: Group,
    database: Database,
    contract: Option<OpenApiValidator>,
}

impl Fixture {
    fn new(stack: &Stack) -> Self {
        let database = Database::create(stack);
        let group = Group::new(stack)
            .set("DATABASE_URL", &database.url)
            .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,audit,write,delete")
            .set("FLAGSTREAM_DELIVERY__SESSION_TIMEOUT", "2s");
        Self { group, database, contract: None }
    }

    fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.group = self.group.set(name, value);
        self
    }

    /// An instance that leads, if it is the first one.
    fn start(&mut self, name: &str) -> Service {
        let service = self.group.start(name);
        self.contract.get_or_insert_with(|| OpenApiValidator::of(&service.url));
        service
    }

    fn check(&self, method: &str, documented: &str, answer: &Answer) {
        self.contract.as_ref().unwrap().check(method, documented, answer);
    }

    /// A call whose answer is as documented.
    fn ask(
        &self,
        service: &Service,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let mut headers = headers.to_vec();
        headers.extend((!body.is_null()).then_some(("content-type", "application/json")));
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = call(method, &format!("{}{path}", service.url), &headers, text.as_bytes());
        self.check(method, documented(path), &answer);
        answer
    }

    fn create(&self, service: &Service, body: &Value) -> Answer {
        self.ask(service, "POST", FLAGS, &[], body)
    }

    fn update(&self, service: &Service, name: &str, body: &Value) -> Answer {
        self.ask(service, "PUT", &path(name), &[], body)
    }

    fn show(&self, service: &Service, name: &str) -> Answer {
        self.ask(service, "GET", &path(name), &[], &Value::Null)
    }

    fn delete(&self, service: &Service, name: &str) -> Answer {
        self.ask(service, "DELETE", &path(name), &[], &Value::Null)
    }
}

/// The address of a flag of `development`.
fn path(name: &str) -> String {
    format!("{FLAGS}/{}?environment=development", encoded(name))
}

fn encoded(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn documented(path: &str) -> &'static str {
    let path = path.split('?').next().unwrap();
    match path.strip_prefix(FLAGS).unwrap() {
        "" => FLAGS,
        "/sync" => "/api/v1/feature-flags/sync",
        "/stale" => "/api/v1/feature-flags/stale",
        "/cleanup" => "/api/v1/feature-flags/cleanup",
        "/preload" => "/api/v1/feature-flags/preload",
        rest if rest.ends_with("/history") => HISTORY,
        rest if rest.ends_with("/changes") => CHANGES,
        rest if rest.ends_with("/kill") => "/api/v1/feature-flags/{name}/kill",
        rest if rest.ends_with("/restore") => "/api/v1/feature-flags/{name}/restore",
        rest if rest.ends_with("/revert") => "/api/v1/feature-flags/{name}/revert",
        rest if rest.ends_with("/preview") => "/api/v1/feature-flags/{name}/preview",
        rest if rest.ends_with("/usage") => "/api/v1/feature-flags/{name}/usage",
        _ => ONE,
    }
}

fn new_flag(name: &str) -> Value {
    json!({"name": name, "environment": "development", "is_enabled": true})
}

fn evaluate(service: &Service, name: &str, user: &str) -> Value {
    let body = json!({"flag_name": name, "user_id": user, "environment": "development"});
    let url = format!("{}/api/v1/feature-flags/evaluate", service.url);
    call("POST", &url, &[("content-type", "application/json")], body.to_string().as_bytes()).json()
}

fn is_on(service: &Service, name: &str, user: &str) -> bool {
    evaluate(service, name, user)["value"] == true
}

/// Fields of a problem that were refused.
fn refused(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.header("content-type"), "application/problem+json", "{answer:?}");
    let fields = answer.json()["errors"].as_array().cloned().unwrap_or_default();
    let mut fields: Vec<_> = fields.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect();
    fields.sort();
    fields
}

/// Waits until this instance leads the feeder.
fn leads(service: &Service) {
    wait_until("a leader", TEST_TIMEOUT, || service.metrics().sum("flagstream_feed_leader", &[]) == 1.0);
}

#[test]
fn the_examples_of_the_contract_are_answered_and_in_force_when_they_are() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    let example = json!({"name": "new-feature", "description": "New feature description", "is_enabled": false,
        "environment": "development", "rollout_percentage": "25", "target_users": ["user-1", "user-2"]});
    let reason = [("x-change-reason", "as the ticket says")];
    let made = fixture.ask(&service, "POST", FLAGS, &reason, &example);
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.header("location"), "/api/v1/feature-flags/new-feature?environment=development");
    let flag = made.json();
    for (field, value) in example.as_object().unwrap() {
        assert_eq!(flag[field], *value, "{field}");
    }
    assert_eq!((&flag["evaluation_count"], &flag["last_evaluated_at"]), (&json!(0), &Value::Null));
    assert_eq!(
        (&flag["source"], &flag["in_force"], &flag["updated_by"]),
        (&json!("local"), &json!(true), &json!("anonymous"))
    );
    assert_eq!(made.header("etag"), format!("\"{}\"", flag["revision"]));
    assert!(!is_on(&service, "new-feature", "user-1"));

    let changed = fixture.update(
        &service,
        "new-feature",
        &json!({"is_enabled": true, "description": "Updated description"}),
    );
    assert_eq!(changed.status, 200, "{changed:?}");
    let answers = ["user-1", "user-2"].map(|user| is_on(&service, "new-feature", user));
    assert_eq!(answers, [true, true], "in force when the call returns");
    let after = changed.json();
    assert_eq!((&after["id"], &after["created_at"]), (&flag["id"], &flag["created_at"]));
    assert_eq!(
        (&after["rollout_percentage"], &after["description"]),
        (&json!("25"), &json!("Updated description"))
    );
    assert!(after["revision"].as_i64() > flag["revision"].as_i64());
    assert!(after["version"].as_u64() > flag["version"].as_u64());
    let shown = fixture.show(&service, "new-feature");
    assert_eq!((shown.status, shown.header("etag")), (200, changed.header("etag")));
    assert_eq!(shown.json()["description"], "Updated description");

    // The same again changes nothing.
    let same = fixture.update(&service, "new-feature", &json!({"is_enabled": true}));
    assert_eq!((same.status, same.header("etag")), (200, changed.header("etag")));

    let gone = fixture.delete(&service, "new-feature");
    assert_eq!((gone.status, gone.body.as_str()), (204, ""));
    assert_eq!(evaluate(&service, "new-feature", "user-1")["error_code"], "FLAG_NOT_FOUND");
    assert_eq!(fixture.show(&service, "new-feature").status, 404);
    assert_eq!(fixture.delete(&service, "new-feature").status, 404);
    assert_eq!(fixture.update(&service, "new-feature", &json!({})).status, 404);

    let changes = fixture.ask(
        &service,
        "GET",
        "/api/v1/feature-flags/new-feature/changes?environment=development",
        &[],
        &Value::Null,
    );
    let told: Vec<_> = changes
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["action"].clone(), change["reason"].clone()))
        .collect();
    let expected =
        [("deleted", json!(null)), ("updated", json!(null)), ("created", json!("as the ticket says"))];
    assert_eq!(told, expected.map(|(action, reason)| (json!(action), reason)));

    // The flag may be created again, with its own revision.
    let anew = fixture.create(&service, &example).json();
    assert_eq!(anew["id"], flag["id"]);
    assert!(anew["revision"].as_i64() > after["revision"].as_i64());
}

#[test]
fn evaluations_are_history_even_of_a_deleted_flag() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    fixture.create(&service, &new_flag("f"));
    for user in ["u-1", "u-2", "u-3"] {
        assert!(is_on(&service, "f", user));
    }
    assert_eq!(fixture.delete(&service, "f").status, 204);
    let history = |query: &str| {
        let path = format!("/api/v1/feature-flags/f/history?environment=development{query}");
        fixture.ask(&service, "GET", &path, &[], &Value::Null)
    };
    wait_until("three rows", TEST_TIMEOUT, || history("").json().as_array().map(Vec::len) == Some(3));
    let rows = history("&limit=2").json();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    let last = &rows[0];
    let expected = json!({"id": last["id"], "flag_name": "f", "user_id": "u-3", "context": {}, "result": true,
        "variant": null, "evaluated_value": null, "environment": "development", "evaluated_at": last["evaluated_at"],
        "evaluation_reason": "TARGETING_MATCH", "flag_version": last["flag_version"]});
    assert_eq!(*last, expected);
    for (query, status) in [("&limit=0", 422), ("&limit=1001", 422), ("&limit=-1", 422), ("&limit=x", 400)] {
        let answer = history(query);
        assert_eq!((answer.status, refused(&answer)), (status, vec!["limit".to_owned()]), "{query}");
    }
    let never = fixture.ask(
        &service,
        "GET",
        "/api/v1/feature-flags/never/history?environment=development",
        &[],
        &Value::Null,
    );
    assert_eq!(never.status, 404);
    // The count survives the deletion, and a new life of the flag.
    wait_until("counted", TEST_TIMEOUT, || {
        fixture.database.number("SELECT evaluation_count FROM feature_flags WHERE name = 'f'") == Some(3)
    });
    assert_eq!(fixture.create(&service, &new_flag("f")).json()["evaluation_count"], 3);
}

#[test]
fn who_gets_a_local_flag() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    let mut body = new_flag("f");
    body["target_users"] = json!(["user-1"]);
    fixture.create(&service, &body);
    let who = || ["user-1", "user-2"].map(|user| is_on(&service, "f", user));
    assert_eq!(who(), [true, false], "with target users and no percentage only they");
    for (change, expected) in [
        (json!({"rollout_percentage": 100}), [true, true]),
        (json!({"rollout_percentage": "0"}), [true, false]),
        (json!({"target_users": []}), [false, false]),
        (json!({"rollout_percentage": null}), [true, true]),
        (json!({"is_enabled": false}), [false, false]),
    ] {
        assert_eq!(fixture.update(&service, "f", &change).status, 200, "{change}");
        assert_eq!(who(), expected, "{change}");
    }
}

#[test]
fn odd_names_work_in_paths_and_bad_ones_are_refused() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    let longest = "é".repeat(127) + "x";
    for name in [ODD_NAME, &longest, "sync", "evaluate", "history", "%", "...", "a'b\"c\\d"] {
        let made = fixture.create(&service, &new_flag(name));
        assert_eq!(made.status, 201, "{name}: {made:?}");
        // The address in the answer.
        let there = call("GET", &format!("{}{}", service.url, made.header("location")), &[], b"");
        assert_eq!(there.json()["name"], name);
        assert_eq!(fixture.update(&service, name, &json!({"description": name})).json()["description"], name);
        assert!(is_on(&service, name, "u"), "{name}");
        let changes = format!("{FLAGS}/{}/changes?environment=development", encoded(name));
        assert_eq!(
            fixture.ask(&service, "GET", &changes, &[], &Value::Null).json().as_array().unwrap().len(),
            2
        );
        assert_eq!(fixture.delete(&service, name).status, 204, "{name}");
        assert!(!is_on(&service, name, "u"), "{name}");
    }
    for name in ["", ".", "..", " a", "a\u{0}b", "a\nb", &"n".repeat(256)] {
        let answer = fixture.create(&service, &new_flag(name));
        assert_eq!((answer.status, refused(&answer)), (422, vec!["name".to_owned()]), "{name:?}");
    }
    let broken = call("GET", &format!("{}{FLAGS}/%FF?environment=development", service.url), &[], b"");
    assert_eq!((broken.status, refused(&broken)), (400, vec!["name".to_owned()]));
    for name in ["\0", &"n".repeat(300)] {
        assert_eq!(fixture.show(&service, name).status, 404);
        assert_eq!(fixture.update(&service, name, &json!({})).status, 404);
        assert_eq!(fixture.delete(&service, name).status, 404);
    }
    let nowhere = fixture.ask(&service, "GET", &format!("{FLAGS}?environment=%00"), &[], &Value::Null);
    assert_eq!((nowhere.status, refused(&nowhere)), (422, vec!["environment".to_owned()]));
}

#[test]
fn bad_input_is_told_field_by_field_and_changes_nothing() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    assert_eq!(fixture.create(&service, &new_flag("f")).status, 201);
    let all = json!({"name": "g", "environment": "a/b", "description": 7, "is_enabled": "yes", "type": "other",
        "rollout_percentage": 101, "target_users": ["u", 7, ""], "owner": [], "tags": "x", "surprise": 1});
    let answer = fixture.create(&service, &all);
    assert_eq!(answer.status, 400, "{answer:?}");
    let fields = [
        "description",
        "environment",
        "is_enabled",
        "owner",
        "rollout_percentage",
        "surprise",
        "tags",
        "target_users[1]",
        "target_users[2]",
        "type",
    ];
    assert_eq!(refused(&answer), fields);
    let cases: &[(Value, u16, &[&str])] = &[
        (json!({}), 422, &["environment", "name"]),
        (json!([]), 400, &["body"]),
        (
            json!({"name": "g", "environment": "development", "rollout_percentage": 101}),
            422,
            &["rollout_percentage"],
        ),
        (
            json!({"name": "g", "environment": "development", "rollout_percentage": true}),
            400,
            &["rollout_percentage"],
        ),
        (json!({"name": "g", "environment": "development", "unknown": 1}), 422, &["unknown"]),
        (json!({"name": "g", "environment": "development", "type": "x"}), 422, &["type"]),
        (json!({"name": "g", "environment": "development", "tags": vec!["t"; 51]}), 422, &["tags"]),
        (json!({"name": "g", "environment": ""}), 422, &["environment"]),
    ];
    for (body, status, fields) in cases {
        let answer = fixture.create(&service, body);
        assert_eq!(
            (answer.status, refused(&answer)),
            (*status, fields.iter().map(|f| f.to_string()).collect()),
            "{body}"
        );
    }
    let json_type = [("content-type", "application/json")];
    let url = format!("{}{FLAGS}", service.url);
    let one = format!("{}{}", service.url, path("f"));
    for (method, url, documented) in [("POST", &url, FLAGS), ("PUT", &one, ONE)] {
        for (headers, body, status) in [
            (&json_type[..], &b"{"[..], 400),
            (&json_type[..], b"", 400),
            (&json_type[..], b"\xff", 400),
            (&[][..], b"{}", 415),
            (&[("content-type", "text/plain")][..], b"{}", 415),
        ] {
            let answer = call(method, url, headers, body);
            fixture.check(method, documented, &answer);
            assert_eq!(answer.status, status, "{method} {body:?}: {answer:?}");
        }
        let large = format!("{{\"description\":\"{}\"}}", "x".repeat(1 << 20));
        assert_eq!(call(method, url, &json_type, large.as_bytes()).status, 413);
    }
    for (method, query) in
        [("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "?environment=a/b"), ("GET", "?environment=")]
    {
        let body = if method == "PUT" { json!({}) } else { Value::Null };
        let answer = fixture.ask(&service, method, &format!("{FLAGS}/f{query}"), &[], &body);
        assert_eq!(
            (answer.status, refused(&answer)),
            (422, vec!["environment".to_owned()]),
            "{method} {query}"
        );
    }
    let other =
        fixture.update(&service, "f", &json!({"name": "g", "environment": "production", "is_enabled": 7}));
    assert_eq!(
        (other.status, refused(&other)),
        (400, ["environment", "is_enabled", "name"].map(str::to_owned).to_vec())
    );
    for (query, status, fields) in [
        ("?limit=0", 422, vec!["limit"]),
        ("?limit=101", 422, vec!["limit"]),
        ("?limit=0&offset=-1", 422, vec!["limit", "offset"]),
        ("?limit=x&offset=-1", 400, vec!["limit", "offset"]),
    ] {
        let answer = fixture.ask(&service, "GET", &format!("{FLAGS}{query}"), &[], &Value::Null);
        assert_eq!(
            (answer.status, refused(&answer)),
            (status, fields.iter().map(|f| (*f).to_owned()).collect()),
            "{query}"
        );
    }
    assert_eq!(fixture.create(&service, &new_flag("f")).status, 409, "there is one already");
    let list = fixture.ask(&service, "GET", FLAGS, &[], &Value::Null).json();
    assert_eq!((&list["total"], &list["items"][0]["name"]), (&json!(1), &json!("f")), "{list}");
    assert_eq!(fixture.database.number("SELECT count(*) FROM feature_flag_changes"), Some(1));
}

#[test]
fn flags_are_listed_page_by_page() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    for (name, environment) in
        [("c", "development"), ("a", "development"), ("b", "production"), ("a", "production")]
    {
        let made = fixture.create(&service, &json!({"name": name, "environment": environment}));
        assert_eq!(made.status, 201, "{made:?}");
    }
    let list = |query: &str| {
        let page = fixture.ask(&service, "GET", &format!("{FLAGS}{query}"), &[], &Value::Null).json();
        let flags = page["items"].as_array().unwrap().iter();
        let flags: Vec<_> = flags
            .map(|flag| {
                format!("{}/{}", flag["environment"].as_str().unwrap(), flag["name"].as_str().unwrap())
            })
            .collect();
        (
            flags.join(" "),
            page["total"].as_i64().unwrap(),
            page["limit"].as_i64().unwrap(),
            page["offset"].as_i64().unwrap(),
        )
    };
    let all = "development/a production/a production/b development/c".to_owned();
    assert_eq!(list(""), (all, 4, 50, 0));
    assert_eq!(list("?environment=development"), ("development/a development/c".to_owned(), 2, 50, 0));
    assert_eq!(list("?limit=2&offset=1"), ("production/a production/b".to_owned(), 4, 2, 1));
    assert_eq!(list("?offset=4"), (String::new(), 4, 50, 4));
    assert_eq!(list("?environment=nowhere"), (String::new(), 0, 50, 0));
}

#[test]
fn of_two_changes_at_once_one_is_told_that_it_came_too_late() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    let mut tag = fixture.create(&service, &new_flag("f")).header("etag").to_owned();
    for round in 0..5 {
        let change = |number: i32| {
            let body = json!({"description": format!("{round} {number}")});
            fixture.ask(&service, "PUT", &path("f"), &[("if-match", &tag)], &body)
        };
        let answers = std::thread::scope(|scope| {
            let racing = [0, 1].map(|number| scope.spawn(move || change(number)));
            racing.map(|racing| racing.join().unwrap())
        });
        let mut statuses = answers.each_ref().map(|answer| answer.status);
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412], "{answers:?}");
        let winner = answers.iter().find(|answer| answer.status == 200).unwrap();
        let loser = answers.iter().find(|answer| answer.status == 412).unwrap();
        assert_eq!(loser.header("etag"), winner.header("etag"), "it is told what is there now");
        assert_eq!(fixture.show(&service, "f").json()["description"], winner.json()["description"]);
        tag = winner.header("etag").to_owned();
    }
    for (method, body) in [("PUT", json!({"is_enabled": false})), ("DELETE", Value::Null)] {
        for (header, status) in
            [("\"1\"", 412), (&*format!("W/{tag}"), 412), ("\"other\"", 412), ("oops", 400)]
        {
            let answer = fixture.ask(&service, method, &path("f"), &[("if-match", header)], &body);
            assert_eq!(answer.status, status, "{method} {header}");
        }
    }
    let either = format!("\"1\", {tag}");
    let changed =
        fixture.ask(&service, "PUT", &path("f"), &[("if-match", &either)], &json!({"is_enabled": false}));
    assert_eq!(changed.status, 200);
    assert_eq!(fixture.ask(&service, "PUT", &path("none"), &[("if-match", "*")], &json!({})).status, 404);
    assert_eq!(fixture.ask(&service, "DELETE", &path("f"), &[("if-match", "*")], &Value::Null).status, 204);
    // Of two that make the same flag, one does.
    let made = std::thread::scope(|scope| {
        let racing = [0, 1].map(|_| scope.spawn(|| fixture.create(&service, &new_flag("g")).status));
        racing.map(|racing| racing.join().unwrap())
    });
    assert!(made == [201, 409] || made == [409, 201], "{made:?}");
}

#[test]
fn a_change_is_announced_once_and_in_force_in_both_instances() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let (one, two) = (fixture.start("one"), fixture.start("two"));
    wait_until("a leader", TEST_TIMEOUT, || {
        [&one, &two].iter().any(|service| service.metrics().sum("flagstream_feed_leader", &[]) == 1.0)
    });
    let topics = &fixture.group.topics;
    let mut updates = TopicReader::open(&topics.kafka, &topics.updates);
    let mut events = TopicReader::open(&topics.kafka, &topics.events);
    let mut versions = Vec::new();
    for (service, other, number) in [(&one, &two, 0), (&two, &one, 1), (&one, &two, 2)] {
        let name = format!("f-{number}");
        let made = fixture.create(service, &new_flag(&name)).json();
        assert!(is_on(service, &name, "u"));
        versions.push(made["version"].as_u64().unwrap());
        wait_until("in force in the other one", TEST_TIMEOUT, || is_on(other, &name, "u"));
        let changed = fixture.update(other, &name, &json!({"is_enabled": false}));
        assert!(!is_on(other, &name, "u"), "{changed:?}");
        versions.push(changed.json()["version"].as_u64().unwrap());
        wait_until("and in the first one", TEST_TIMEOUT, || !is_on(service, &name, "u"));
    }
    let last = *versions.last().unwrap();
    updates.wait("the last change", TEST_TIMEOUT, |record| record.json()["version"] == last);
    let changes = |seen: &[Received]| {
        let bodies = seen.iter().map(Received::json);
        bodies.filter(|body| body["event_type"] != "FEATURE_FLAG_EVALUATED").collect::<Vec<_>>()
    };
    events.until("all changes", TEST_TIMEOUT, |seen| changes(seen).len() >= versions.len());
    for tap in [&updates, &events] {
        let told = changes(&tap.seen);
        let mut told_versions: Vec<_> = told.iter().map(|body| body["version"].as_u64().unwrap()).collect();
        told_versions.sort_unstable();
        assert_eq!(told_versions, versions, "each once");
        assert!(told.iter().all(|body| body["actor"] == "anonymous"), "{told:?}");
    }
    let kinds = "SELECT count(*) FROM feature_flag_versions WHERE actor = 'anonymous' AND source = 'local'";
    wait_until("each version is kept", TEST_TIMEOUT, || fixture.database.number(kinds) == Some(6));
}

#[test]
fn callers_need_the_scope_of_what_they_do() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate")
        .set("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", "a-token-of-the-admin");
    let service = fixture.start("one");
    leads(&service);
    let calls = [
        ("GET", FLAGS.to_owned(), Value::Null),
        ("GET", path("f"), Value::Null),
        ("GET", "/api/v1/feature-flags/f/history?environment=development".to_owned(), Value::Null),
        ("GET", "/api/v1/feature-flags/f/changes?environment=development".to_owned(), Value::Null),
        ("POST", FLAGS.to_owned(), new_flag("f")),
        ("PUT", path("f"), json!({})),
        ("DELETE", path("f"), Value::Null),
        ("POST", "/api/v1/feature-flags/sync?environment=development".to_owned(), Value::Null),
    ];
    for (method, path, body) in &calls {
        let answer = fixture.ask(&service, method, path, &[], body);
        assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
        let answer = fixture.ask(&service, method, path, &[("authorization", "Bearer nobody-s")], body);
        assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
    }
    let admin = [("authorization", "Bearer a-token-of-the-admin")];
    let made = fixture.ask(&service, "POST", FLAGS, &admin, &new_flag("f"));
    assert_eq!((made.status, &made.json()["updated_by"]), (201, &json!("bootstrap-token")));
}

#[test]
fn a_token_sees_and_changes_its_environments_only() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "none")
        .set("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", "a-token-of-the-admin");
    let service = fixture.start("one");
    leads(&service);
    let admin = [("authorization", "Bearer a-token-of-the-admin")];
    for environment in ["development", "production", "staging"] {
        let flag = json!({"name": "f", "environment": environment});
        assert_eq!(fixture.ask(&service, "POST", FLAGS, &admin, &flag).status, 201);
    }
    let wanted = json!({"name": "team", "scopes": ["read", "write", "delete"], "environments": ["development", "staging"]});
    let headers = [admin[0], ("content-type", "application/json")];
    let url = format!("{}/api/v1/tokens", service.url);
    let token = call("POST", &url, &headers, wanted.to_string().as_bytes()).json();
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let theirs = [("authorization", bearer.as_str())];
    let list = fixture.ask(&service, "GET", FLAGS, &theirs, &Value::Null).json();
    let seen: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|flag| flag["environment"].clone()).collect();
    assert_eq!((seen, &list["total"]), (vec![json!("development"), json!("staging")], &json!(2)));
    let elsewhere = format!("{FLAGS}/f?environment=production");
    for (method, path, body) in [
        ("GET", format!("{FLAGS}?environment=production"), Value::Null),
        ("GET", elsewhere.clone(), Value::Null),
        ("GET", format!("{FLAGS}/f/history?environment=production"), Value::Null),
        ("GET", format!("{FLAGS}/f/changes?environment=production"), Value::Null),
        ("POST", FLAGS.to_owned(), json!({"name": "g", "environment": "production"})),
        ("PUT", elsewhere.clone(), json!({"is_enabled": true})),
        ("DELETE", elsewhere.clone(), Value::Null),
        ("POST", format!("{FLAGS}/sync?environment=production"), Value::Null),
    ] {
        assert_eq!(fixture.ask(&service, method, &path, &theirs, &body).status, 403, "{method} {path}");
    }
    let changed = fixture.ask(&service, "PUT", &path("f"), &theirs, &json!({"is_enabled": true}));
    assert_eq!(changed.status, 200);
    let name = changed.json()["updated_by"].as_str().unwrap().to_owned();
    assert!(name.starts_with("token:") && name.ends_with(":team"), "{name}");
}

#[test]
fn without_a_database_there_are_no_local_flags() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    fixture.group = Group::new(stack).set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write,delete");
    let service = fixture.start("one");
    let answer = fixture.create(&service, &new_flag("f"));
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("DATABASE_URL"), "{answer:?}");
    assert_eq!(fixture.show(&service, "f").status, 503);
    let (status, _) = get(&format!("{}/health/ready", service.url)).unwrap();
    assert_eq!(status, 200);
}
