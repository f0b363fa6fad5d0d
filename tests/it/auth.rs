//! Authentication from the outside: tokens, their scopes and environments, their expiry; limits; random calls.

mod everywhere;
mod made_up;
mod outages;
mod restrictions;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{
    Answer, Database, Flag, Flags, Group, OpenApiValidator, Service, Stack, TEST_TIMEOUT, TopicReader, call,
    flagstream, temporary_folder, wait_until,
};

const EVALUATE: &str = "/api/v1/feature-flags/evaluate";
const TOKENS: &str = "/api/v1/tokens";
const BOOTSTRAP: &str = "a-token-for-the-test";
const JSON: (&str, &str) = ("content-type", "application/json");

/// Instances with a database, and a flag in two environments.
struct Fixture {
    group: Group,
    database: Database,
    /// Version of the flag that was created last.
    version: u64,
}

impl Fixture {
    fn new(stack: &Stack) -> Self {
        Self::with(stack, |group| group)
    }

    fn with(stack: &Stack, set: impl FnOnce(Group) -> Group) -> Self {
        let database = Database::create(stack);
        let group = Group::new(stack)
            .set("DATABASE_URL", &database.url)
            .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "none")
            .set("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", BOOTSTRAP)
            .set("FLAGSTREAM_UNLEASH_API__ENABLED", "true");
        let group = set(group);
        let mut flags = Flags::new(&group.topics);
        flags.set("development", Flag::on("on"));
        let version = flags.set("production", Flag::on("on"));
        Self { group, database, version }
    }

    /// An instance that has the flags and knows what tokens there are.
    fn start(&self, name: &str) -> Service {
        let service = self.group.start(name);
        wait_until("flags and tokens", TEST_TIMEOUT, || {
            let health = service.health();
            service.metrics().sum("flagstream_store_version", &[]) == self.version as f64
                && health["parts"]["tokens"]["state"] == "up"
        });
        service
    }

    /// `flagstream token …`.
    fn command(&self, arguments: &[&str]) -> Output {
        let settings = [("DATABASE_URL".to_owned(), self.database.url.clone())];
        let arguments: Vec<_> = ["token"].iter().chain(arguments).copied().collect();
        flagstream(self.group.folder.path(), &arguments, settings)
    }

    /// Makes a token on the command line.
    fn token(&self, scopes: &str, environments: &str, more: &[&str]) -> Token {
        let mut arguments = vec!["create", "--name", "it", "--output", "json"];
        arguments.extend(["--scopes", scopes, "--environments", environments]);
        arguments.extend(more);
        let output = self.command(&arguments);
        assert!(output.status.success(), "{output:?}");
        Token::of(&serde_json::from_slice(&output.stdout).unwrap())
    }
}

struct Token {
    id: String,
    header: String,
}

impl Token {
    fn of(made: &Value) -> Self {
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        Self { id: text("id"), header: format!("Bearer {}", text("token")) }
    }

    /// The secret, which only the token's holder may ever see.
    fn secret(&self) -> &str {
        self.header.rsplit_once('_').unwrap().1
    }
}

fn with(method: &str, url: &str, token: Option<&str>, body: &Value) -> Answer {
    let mut headers = vec![JSON];
    headers.extend(token.map(|token| ("authorization", token)));
    let body = if body.is_null() { String::new() } else { body.to_string() };
    call(method, url, &headers, body.as_bytes())
}

fn evaluate(service: &Service, token: Option<&str>, environment: &str) -> Answer {
    let body = json!({"flag_name": "on", "environment": environment});
    with("POST", &format!("{}{EVALUATE}", service.url), token, &body)
}

fn bootstrap() -> String {
    format!("Bearer {BOOTSTRAP}")
}

/// An open stream of changes.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(service: &Service, path: &str, token: &Token) -> Self {
        let mut stream = TcpStream::connect(service.url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\r\n", token.header).unwrap();
        let mut stream = Self(BufReader::new(stream));
        assert!(stream.until("HTTP/1.1").contains(" 200 "));
        // Where it stands comes first.
        stream.until("id: ");
        stream
    }

    /// The next line that begins like this. Heartbeats arrive meanwhile, so that the read timeout alone is no deadline.
    fn until(&mut self, start: &str) -> String {
        let deadline = std::time::Instant::now() + TEST_TIMEOUT;
        loop {
            assert!(
                std::time::Instant::now() < deadline,
                "no line that begins with {start:?} within {TEST_TIMEOUT:?}"
            );
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended before {start}");
            if line.starts_with(start) {
                return line;
            }
        }
    }

    /// Whether it ends in time.
    fn ends(mut self) -> bool {
        let mut line = String::new();
        while self.0.read_line(&mut line).unwrap() > 0 {
            // The last chunk.
            if line == "0\r\n" {
                return true;
            }
            line.clear();
        }
        true
    }
}

#[test]
fn a_token_counts_where_it_is_for_until_it_is_revoked_everywhere() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let (one, two) = (fixture.start("one"), fixture.start("two"));
    let contract = OpenApiValidator::of(&one.url);
    let token = fixture.token("evaluate,read", "production", &["--expires-in", "1d"]);
    for service in [&one, &two] {
        // At once: it is looked for when it comes.
        let answer = evaluate(service, Some(&token.header), "production");
        assert_eq!((answer.status, &answer.json()["value"]), (200, &json!(true)), "{answer:?}");
        let elsewhere = evaluate(service, Some(&token.header), "development");
        contract.check("POST", EVALUATE, &elsewhere);
        assert_eq!(elsewhere.status, 403);
        assert!(elsewhere.json()["detail"].as_str().unwrap().contains("development"), "{elsewhere:?}");
        let anonymous = evaluate(service, None, "production");
        contract.check("POST", EVALUATE, &anonymous);
        assert_eq!(anonymous.status, 401);
        assert!(anonymous.header("www-authenticate").starts_with("Bearer"), "{anonymous:?}");
    }
    let refused = with("GET", &format!("{}{TOKENS}", one.url), Some(&token.header), &Value::Null);
    contract.check("GET", TOKENS, &refused);
    assert_eq!(refused.status, 403);
    assert!(refused.header("www-authenticate").contains("insufficient_scope"), "{refused:?}");

    let mut listener = Stream::open(&two, "/api/v1/changes", &token);
    let url = format!("{}/api/v1/changes?environment=development", two.url);
    assert_eq!(with("GET", &url, Some(&token.header), &Value::Null).status, 403);
    let mut flags = Flags::new(&fixture.group.topics);
    flags.set("development", Flag::on("unseen"));
    flags.set("production", Flag::on("seen"));
    assert!(listener.until("data: ").contains("production"), "what it is not for is not shown");

    let before = std::time::Instant::now();
    let url = format!("{}{TOKENS}/{}", one.url, token.id);
    let revoked = with("DELETE", &url, Some(&bootstrap()), &Value::Null);
    contract.check("DELETE", "/api/v1/tokens/{id}", &revoked);
    assert_eq!(revoked.status, 204);
    let log = with("GET", &format!("{url}/changes"), Some(&bootstrap()), &Value::Null);
    contract.check("GET", "/api/v1/tokens/{id}/changes", &log);
    let log = log.json();
    let text = |at: usize, name: &str| log[at][name].as_str().unwrap().to_owned();
    assert_eq!(
        (text(0, "action"), text(0, "actor")),
        ("revoked".to_owned(), "bootstrap-token".to_owned()),
        "{log}"
    );
    assert_eq!(text(1, "action"), "created", "{log}");
    assert!(text(1, "actor").starts_with("command-line"), "{log}");
    let here = evaluate(&one, Some(&token.header), "production");
    assert_eq!(here.status, 401, "at once where it was revoked: {here:?}");
    assert!(here.header("www-authenticate").contains("invalid_token"), "{here:?}");
    wait_until("refused on the other instance", TEST_TIMEOUT, || {
        evaluate(&two, Some(&token.header), "production").status == 401
    });
    assert!(listener.ends(), "an open stream too");
    println!("refused elsewhere within {:?}", before.elapsed());
    assert!(one.metrics().sum("flagstream_http_refused_total", &[("status", "401")]) >= 2.0);
    for service in [&one, &two] {
        assert!(!service.log().contains(token.secret()), "no secret in a log");
        assert!(!service.health().to_string().contains(token.secret()));
    }
}

#[test]
fn tokens_are_made_listed_and_revoked_on_the_command_line() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let migrated = flagstream(fixture.group.folder.path(), &["migrate"], fixture.group.settings());
    assert!(migrated.status.success(), "{migrated:?}");
    let token = fixture.token("read,evaluate", "production,development", &["--expires-in", "90d"]);
    let text = fixture.command(&["create", "--name", "all", "--scopes", "admin", "--environments", "*"]);
    let printed = String::from_utf8(text.stdout).unwrap();
    assert!(printed.starts_with("fst_") && printed.lines().count() == 1, "{printed}");

    let listed = fixture.command(&["list", "--output", "json"]);
    let listed: Vec<Value> = listed
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["environments"], &listed[0]["expires_at"]), (&json!(["*"]), &Value::Null));
    assert_eq!(listed[1]["id"], json!(token.id));
    assert_eq!((&listed[1]["scopes"], &listed[1]["state"]), (&json!(["read", "evaluate"]), &json!("active")));
    assert!(listed.iter().all(|token| token.get("token").is_none()), "{listed:?}");
    let rows: Vec<(String,)> = fixture.database.rows("SELECT api_tokens::text FROM api_tokens");
    assert!(rows.iter().all(|(row,)| !row.contains(token.secret())), "only the hash is stored");

    for said in ["revoked", "was already revoked"] {
        let revoked = fixture.command(&["revoke", &token.id]);
        assert!(revoked.status.success(), "{revoked:?}");
        assert_eq!(String::from_utf8(revoked.stdout).unwrap(), format!("{} {said}\n", token.id));
    }
    let unknown = fixture.command(&["revoke", "0000000000000000"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    let table = [
        (vec!["revoke", "7"], "7: expected a token's id"),
        (
            vec!["create", "--name", "", "--scopes", "fly", "--environments", "*,a", "--expires-in", "soon"],
            "--expires-in",
        ),
        (
            vec!["create", "--name", "n", "--scopes", "fly", "--environments", "a"],
            "--scopes: expected some of evaluate",
        ),
        (vec!["create", "--name", "n", "--scopes", "read"], "--environments"),
    ];
    for (arguments, expected) in table {
        let output = fixture.command(&arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    let folder = temporary_folder();
    let without = flagstream(folder.path(), &["token", "list"], Vec::<(String, String)>::new());
    assert_eq!(without.status.code(), Some(2), "{without:?}");
    assert!(String::from_utf8(without.stderr).unwrap().contains("DATABASE_URL"));
    on_sqlite(folder.path());
}

/// The database of the embedded mode.
fn on_sqlite(folder: &Path) {
    let url = format!("sqlite:{}", folder.join("tokens.db").display());
    let run = |arguments: &[&str]| flagstream(folder, arguments, [("DATABASE_URL".to_owned(), url.clone())]);
    let create =
        ["token", "create", "--name", "n", "--scopes", "read", "--environments", "*", "--output", "json"];
    let early = run(&create);
    assert_eq!(early.status.code(), Some(1), "{early:?}");
    assert!(String::from_utf8(early.stderr).unwrap().contains("flagstream migrate"));
    assert!(run(&["migrate"]).status.success());
    let made: Value = serde_json::from_slice(&run(&create).stdout).unwrap();
    let id = made["id"].as_str().unwrap();
    assert!(run(&["token", "revoke", id]).status.success());
    let listed: Value = serde_json::from_slice(&run(&["token", "list", "--output", "json"]).stdout).unwrap();
    assert_eq!((listed["id"].as_str(), listed["state"].as_str()), (Some(id), Some("revoked")));
}

#[test]
fn tokens_are_managed_over_http_by_those_who_may() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let service = fixture.start("one");
    let contract = OpenApiValidator::of(&service.url);
    let url = format!("{}{TOKENS}", service.url);
    let ask = |method: &str, query: &str, token: &str, body: &Value| {
        let answer = with(method, &format!("{url}{query}"), Some(token), body);
        let path = if query.starts_with('/') { "/api/v1/tokens/{id}" } else { TOKENS };
        contract.check(method, path, &answer);
        answer
    };
    let order = |scopes: &[&str], environments: &[&str]| json!({"name": "made", "scopes": scopes, "environments": environments, "expires_in": "12h"});
    let made = ask("POST", "", &bootstrap(), &order(&["admin"], &["production"]));
    assert_eq!((made.status, made.header("cache-control")), (201, "no-store"), "{made:?}");
    let admin = Token::of(&made.json());
    assert_eq!(evaluate(&service, Some(&admin.header), "production").status, 200, "admin may all");

    // A token grants no more than its creator has.
    for wider in [&["development"][..], &["production", "development"], &["*"]] {
        assert_eq!(ask("POST", "", &admin.header, &order(&["read"], wider)).status, 403, "{wider:?}");
    }
    let made = ask("POST", "", &admin.header, &order(&["read"], &["production"]));
    assert_eq!(made.status, 201, "{made:?}");
    let reader = Token::of(&made.json());
    let elsewhere = Token::of(&ask("POST", "", &bootstrap(), &order(&["read"], &["*"])).json());
    let ids = |answer: Answer| -> BTreeSet<String> {
        let tokens = answer.json()["tokens"].as_array().unwrap().clone();
        tokens.iter().map(|token| token["id"].as_str().unwrap().to_owned()).collect()
    };
    let own = BTreeSet::from([admin.id.clone(), reader.id.clone()]);
    assert_eq!(ids(ask("GET", "", &admin.header, &Value::Null)), own);
    assert_eq!(ask("DELETE", &format!("/{}", elsewhere.id), &admin.header, &Value::Null).status, 403);
    assert_eq!(ask("POST", "", &reader.header, &order(&["read"], &["production"])).status, 403);

    let first = ask("GET", "?limit=2", &bootstrap(), &Value::Null);
    let next = first.json()["next"].as_str().unwrap().to_owned();
    let second = ask("GET", &format!("?limit=2&after={next}"), &bootstrap(), &Value::Null);
    assert_eq!(second.json()["next"], Value::Null);
    assert!(!first.body.contains(reader.secret()) && !second.body.contains("fst_"), "{first:?}");
    let all: BTreeSet<String> = ids(first).union(&ids(second)).cloned().collect();
    assert_eq!(all.len(), 3);

    let table = [
        ("POST", "", json!([]), 400, vec!["body"]),
        (
            "POST",
            "",
            json!({"name": 5, "scopes": ["read"], "environments": "*"}),
            400,
            vec!["name", "environments"],
        ),
        ("POST", "", json!({}), 422, vec!["name", "scopes", "environments"]),
        (
            "POST",
            "",
            json!({"name": "n", "scopes": ["fly"], "environments": ["*", "a"], "expires_in": "0", "colour": 1}),
            422,
            vec!["colour", "scopes", "environments", "expires_in"],
        ),
        ("GET", "?limit=0", Value::Null, 422, vec!["limit"]),
        ("GET", "?limit=1001", Value::Null, 422, vec!["limit"]),
        ("GET", "?limit=many", Value::Null, 400, vec!["limit"]),
        ("GET", "?after=x", Value::Null, 400, vec!["after"]),
        ("DELETE", "/0000000000000000", Value::Null, 404, vec![]),
        ("DELETE", "/x", Value::Null, 404, vec![]),
    ];
    for (method, query, body, status, fields) in table {
        let answer = ask(method, query, &bootstrap(), &body);
        assert_eq!(answer.status, status, "{method} {query} {body}: {answer:?}");
        let problem = answer.json();
        let named = problem["errors"].as_array().into_iter().flatten();
        let named: BTreeSet<_> = named.map(|error| error["field"].as_str().unwrap()).collect();
        assert_eq!(named, fields.into_iter().collect(), "{method} {query} {body}");
    }
}

#[test]
fn without_a_database_there_is_the_bootstrap_token_alone() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "none")
        .set("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", BOOTSTRAP);
    let service = group.start("one");
    let token = format!("Bearer fst_{}_{}", "0".repeat(16), "0".repeat(72));
    assert_eq!(evaluate(&service, Some(&token), "production").status, 401);
    assert_eq!(evaluate(&service, Some(&bootstrap()), "production").status, 200);
    let url = format!("{}{TOKENS}", service.url);
    assert_eq!(with("GET", &url, Some(&bootstrap()), &Value::Null).status, 404);
}

#[test]
fn odd_headers_are_refused_and_nothing_of_them_comes_back() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::with(stack, |group| group.set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate"));
    let service = fixture.start("one");
    let token = fixture.token("evaluate", "*", &[]);
    assert_eq!(evaluate(&service, Some(&token.header), "production").status, 200);
    let cut = &token.header[..token.header.len() - 1];
    let typo = format!("{cut}{}", if token.header.ends_with('0') { '1' } else { '0' });
    let stranger = Fixture::new(stack).group.folder.path().display().to_string();
    for odd in [
        "",
        " ",
        "Bearer",
        "Bearer  ",
        cut,
        &typo,
        "Basic YTpi",
        "Bearer fst__",
        "Bearer fst_\u{e9}",
        "Bearer a b",
        &format!("{} ", token.header.replace("fst_", "FST_")),
        &format!("Bearer {}", "x".repeat(30_000)),
        &stranger,
    ] {
        let answer = evaluate(&service, Some(odd), "production");
        assert_eq!(answer.status, 401, "{odd:.80}: {answer:?}");
        assert!(odd.len() < 20 || !answer.body.contains(odd), "{answer:?}");
    }
    let raw = |head: String| {
        let mut stream = TcpStream::connect(service.url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        // It may be cut off before it has sent all.
        let _ = stream.write_all(format!("{head}\r\n\r\n").as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let head = format!("POST {EVALUATE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    let large = raw(format!("{head}X-Large: {}", "x".repeat(70_000)));
    assert!(large.starts_with("HTTP/1.1 431"), "{large}");
    let many: Vec<_> = (0..200).map(|n| format!("X-{n}: 1")).collect();
    let many = raw(format!("{head}{}", many.join("\r\n")));
    assert!(many.starts_with("HTTP/1.1 431"), "{many}");
    let twice = raw(format!("{head}Authorization: {0}\r\nAuthorization: {0}", token.header));
    assert!(twice.starts_with("HTTP/1.1 401"), "which of two would count is not guessed: {twice}");
    let cors = call(
        "POST",
        &format!("{}{EVALUATE}", service.url),
        &[JSON, ("origin", "https://a.example.com")],
        b"{}",
    );
    assert_eq!(cors.header("access-control-allow-origin"), "", "off unless configured");

    let looks = || service.metrics().sum("flagstream_access_looks_total", &[]);
    let (before, begun) = (looks(), std::time::Instant::now());
    for _ in 0..200 {
        // Beyond some wrong tokens a second from one address, 429.
        let status = evaluate(&service, Some(&typo), "production").status;
        assert!(matches!(status, 401 | 429), "{status}");
    }
    assert!(
        looks() - before <= begun.elapsed().as_secs_f64() + 2.0,
        "what cannot be a token is not asked for"
    );
}

#[test]
fn calls_are_paced_where_that_is_configured() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::with(stack, |group| {
        group
            .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate")
            .set("FLAGSTREAM_AUTH__TOKEN_CALLS_PER_SECOND", "5")
            .set("FLAGSTREAM_AUTH__ANONYMOUS_CALLS_PER_SECOND", "2")
    });
    let service = fixture.start("one");
    let contract = OpenApiValidator::of(&service.url);
    let (one, two) = (fixture.token("evaluate", "*", &[]), fixture.token("evaluate", "*", &[]));
    for (token, rate) in [(Some(&one.header), 5), (None, 2)] {
        let answers: Vec<_> =
            (0..60).map(|_| evaluate(&service, token.map(String::as_str), "production")).collect();
        let answered = answers.iter().filter(|answer| answer.status == 200).count();
        assert!(answered >= rate, "{answered}");
        let refused = answers.iter().find(|answer| answer.status == 429).expect("too many");
        assert_eq!(refused.header("retry-after"), "1");
        contract.check("POST", EVALUATE, refused);
    }
    assert_eq!(
        evaluate(&service, Some(&two.header), "production").status,
        200,
        "another token's pace is its own"
    );
    let url = format!("{}/ofrep/v1/evaluate/flags/on", service.url);
    let ofrep = (0..60).map(|_| with("POST", &url, Some(&one.header), &json!({})));
    let ofrep = ofrep.into_iter().find(|answer| answer.status == 429).expect("too many");
    contract.check("POST", "/ofrep/v1/evaluate/flags/{key}", &ofrep);
    assert!(service.metrics().sum("flagstream_http_refused_total", &[("status", "429")]) > 2.0);
}

#[test]
fn events_take_their_calls_trace_along() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let service = fixture.start("one");
    let mut events = TopicReader::open(&fixture.group.topics.kafka, &fixture.group.topics.events);
    let authorization = bootstrap();
    let mut ask = |path: &str, body: &Value, trace: &str| {
        let headers = [JSON, ("authorization", authorization.as_str()), ("traceparent", trace)];
        let url = format!("{}{path}", service.url);
        let asked = call("POST", &url, &headers, body.to_string().as_bytes());
        assert_eq!(asked.status, 200, "{asked:?}");
        let user = body["user_id"].as_str().or(body["context"]["targetingKey"].as_str()).unwrap();
        let event = events.wait("its event", TEST_TIMEOUT, |event| event.json()["user_id"] == user);
        event.header("traceparent").map(str::to_owned)
    };
    let one = |user: &str| json!({"flag_name": "on", "environment": "production", "user_id": user});
    assert_eq!(ask(EVALUATE, &one("a"), TRACE).as_deref(), Some(TRACE));
    assert_eq!(ask(EVALUATE, &one("b"), "not-a-trace"), None);
    let ofrep = json!({"context": {"targetingKey": "c"}});
    let path = "/ofrep/v1/evaluate/flags/on?environment=production";
    assert_eq!(ask(path, &ofrep, TRACE).as_deref(), Some(TRACE));
}

#[test]
fn a_token_ends_with_the_one_it_was_made_with() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let service = fixture.start("one");
    let url = format!("{}{TOKENS}", service.url);
    let make = |token: &str, order: &Value| with("POST", &url, Some(token), order).json();
    let order =
        json!({"name": "made", "scopes": ["admin"], "environments": ["production"], "expires_in": "1h"});
    let maker = make(&bootstrap(), &order);
    assert_eq!(maker["made_by"], Value::Null, "{maker}");
    let order = json!({"name": "made", "scopes": ["admin"], "environments": ["production"]});
    let child = make(&Token::of(&maker).header, &order);
    assert_eq!((&child["made_by"], &child["expires_at"]), (&maker["id"], &maker["expires_at"]), "{child}");
    let grandchild = make(&Token::of(&child).header, &order);
    let (maker, grandchild) = (Token::of(&maker), Token::of(&grandchild));
    assert_eq!(evaluate(&service, Some(&grandchild.header), "production").status, 200);
    let revoked = with("DELETE", &format!("{url}/{}", maker.id), Some(&bootstrap()), &Value::Null);
    assert_eq!(revoked.status, 204, "{revoked:?}");
    wait_until("its descendants are refused", TEST_TIMEOUT, || {
        evaluate(&service, Some(&grandchild.header), "production").status == 401
    });
}
