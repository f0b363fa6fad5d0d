//! Experiments: exposures from evaluations, conversions from the topic and over HTTP, and results that are what the rows
//! say.

mod commands;
mod dimensions;
mod exposures;
mod faults;
mod large;
mod layers;
mod past;
mod rows;
mod statistics;
mod track;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::harness::{
    Answer, Database, Flag, Flags, Group, OpenApiValidator, Sender, Service, Stack, TEST_TIMEOUT,
    TopicReader, call, post, wait_until,
};

const EXPERIMENTS: &str = "/api/v1/experiments";
const ENVIRONMENT: &str = "production";
const HALVES: &[(&str, u32)] = &[("dark", 500), ("light", 500)];

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
            .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
            .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write,delete")
            .set("FLAGSTREAM_DELIVERY__SESSION_TIMEOUT", "2s")
            .set("FLAGSTREAM_DELIVERY__TRANSACTION_TIMEOUT", "2s");
        Flags::new(&group.topics).set(ENVIRONMENT, Flag::experiment("theme", HALVES));
        Self { group, database, contract: None }
    }

    fn start(&mut self, name: &str) -> Service {
        let service = self.group.start(name);
        self.contract.get_or_insert_with(|| OpenApiValidator::of(&service.url));
        service
    }

    /// A call whose answer is as documented.
    fn ask(&self, service: &Service, method: &str, rest: &str, body: &Value) -> Answer {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("content-type", "application/json")];
        let separator = if rest.contains('?') { '&' } else { '?' };
        let url = format!("{}{EXPERIMENTS}{rest}{separator}environment={ENVIRONMENT}", service.url);
        let answer = call(method, &url, &headers, text.as_bytes());
        let documented = match rest.split('?').next().unwrap().split('/').nth(2) {
            Some(action) => format!("{EXPERIMENTS}/{{name}}/{action}"),
            None if rest.is_empty() => EXPERIMENTS.to_owned(),
            None => format!("{EXPERIMENTS}/{{name}}"),
        };
        self.contract.as_ref().unwrap().check(method, &documented, &answer);
        answer
    }

    fn begin(&self, service: &Service, metrics: &Value) -> Value {
        let body =
            json!({"name": "theme", "environment": ENVIRONMENT, "metrics": metrics, "control": "light"});
        self.create(service, &body)
    }

    /// Creates an experiment once the flag's definition is in the database: 503 until then.
    fn create(&self, service: &Service, body: &Value) -> Value {
        let mut begun = self.ask(service, "POST", "", body);
        wait_until("the flag is in the database", TEST_TIMEOUT, || {
            if begun.status == 503 {
                begun = self.ask(service, "POST", "", body);
            }
            begun.status != 503
        });
        assert_eq!(begun.status, 201, "{begun:?}");
        begun.json()
    }

    fn results(&self, service: &Service) -> Value {
        let answer = self.ask(service, "GET", "/theme/results", &Value::Null);
        if answer.status == 200 { answer.json() } else { Value::Null }
    }

    fn wait(&self, service: &Service, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        wait_until(what, TEST_TIMEOUT, || {
            last = self.results(service);
            fits(&last)
        });
        last
    }

    /// Users of each variant, counted from the evaluations' own rows.
    fn recount(&self, since: &str) -> BTreeMap<String, i64> {
        let query = format!(
            "SELECT variant, count(*) FROM (SELECT DISTINCT ON (user_id) user_id, variant
                FROM feature_flag_evaluations WHERE flag_name = 'theme' AND environment = '{ENVIRONMENT}' AND enabled
                    AND variant <> '' AND user_id <> '' AND error_code IS NULL AND evaluated_at >= '{since}'
                ORDER BY user_id, evaluated_at, variant) AS firsts GROUP BY 1"
        );
        self.database.rows(&query).into_iter().collect()
    }

    fn convert(&self, sender: &Sender, conversion: &Value) {
        let user = conversion["user_id"].as_str().unwrap_or_default();
        let body = conversion.to_string();
        let topic = &self.group.topics.conversions;
        sender.send(topic, None, Some(user.as_bytes()), body.as_bytes(), None);
    }
}

/// A user's variant, as an evaluation over HTTP says.
fn evaluate(service: &Service, user: &str) -> String {
    let body =
        json!({"flag_name": "theme", "user_id": user, "default_value": "none", "environment": ENVIRONMENT});
    let answer = post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body);
    answer.json()["variant"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A phase of the results, the oldest first.
fn phase(results: &Value, number: usize) -> &Value {
    let earlier = &results["earlier_phases"];
    if Some(number) == earlier.as_array().map(Vec::len) { &results["phase"] } else { &earlier[number] }
}

/// Users of each variant of a phase, as the results have them.
fn users(results: &Value, number: usize) -> BTreeMap<String, i64> {
    let variants = phase(results, number)["variants"].as_array().cloned().unwrap_or_default();
    let count = |variant: &Value| {
        let users = variant["users"].as_i64().unwrap();
        (users > 0).then(|| (variant["name"].as_str().unwrap().to_owned(), users))
    };
    variants.iter().filter_map(count).collect()
}

/// Counts of conversions, zero for those that are not given.
fn conversions(counts: &[(&str, u64)]) -> Value {
    let mut all = json!({"attributed": 0, "waiting": 0, "expired": 0, "before_exposure": 0, "after_window": 0,
        "excluded": 0, "duplicates": 0});
    counts.iter().for_each(|(name, count)| all[*name] = json!(count));
    all
}

fn total(results: &Value, phase: usize) -> i64 {
    users(results, phase).values().sum()
}

#[test]
fn exposures_and_conversions_become_results() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    // An evaluation before the experiment's start exposes no user.
    evaluate(&service, "early-bird");
    let metrics = json!([{"name": "purchase"}, {"name": "revenue", "kind": "mean", "role": "guardrail"}]);
    let begun = fixture.begin(&service, &metrics);
    assert_eq!((&begun["status"], &begun["control"]), (&json!("running"), &json!("light")));
    let started_at = begun["started_at"].as_str().unwrap();
    let names: Vec<String> = (0..60).map(|number| format!("user-{number}")).collect();
    let assigned: BTreeMap<&str, String> =
        names.iter().map(|name| (name.as_str(), evaluate(&service, name))).collect();
    // A repetition is no second exposure.
    names.iter().take(20).for_each(|name| drop(evaluate(&service, name)));
    let results = fixture.wait(&service, "exposures", |results| total(results, 0) == 60);
    assert_eq!(users(&results, 0), fixture.recount(started_at));

    // Every third user buys; the first of them twice, one of these events twice.
    let sender = Sender::new(&fixture.group.topics.kafka);
    let now = rfc3339(Utc::now());
    let buyers: Vec<&String> = names.iter().step_by(3).collect();
    let bought = |user: &str, metric: &str, at: &str, id: &str| json!({"experiment": "theme", "user_id": user, "metric": metric, "value": 10, "occurred_at": at, "event_id": id});
    for (number, buyer) in buyers.iter().enumerate() {
        if number % 2 == 0 {
            fixture.convert(&sender, &bought(buyer, "purchase", &now, &format!("p-{number}")));
        } else {
            let mut body = bought(buyer, "purchase", &now, &format!("p-{number}"));
            body.as_object_mut().unwrap().remove("experiment");
            let accepted = fixture.ask(&service, "POST", "/theme/conversions", &json!([body]));
            assert_eq!(accepted.status, 202, "{accepted:?}");
            assert_eq!(accepted.json()["event_ids"], json!([format!("p-{number}")]));
        }
        fixture.convert(&sender, &bought(buyer, "revenue", &now, &format!("r-{number}")));
    }
    for id in ["r-0", "r-0", "again"] {
        fixture.convert(&sender, &bought(buyers[0], "revenue", &now, id));
    }
    // Conversions: late but in time, too early, of an unknown user, of a user who was evaluated before the start.
    let before = rfc3339(Utc::now() - TimeDelta::hours(1));
    let long_before = rfc3339(Utc::now() - TimeDelta::days(30));
    fixture.convert(&sender, &bought(&names[1], "revenue", &before, "before"));
    fixture.convert(&sender, &bought("nobody", "purchase", &now, "nobody"));
    fixture.convert(&sender, &bought("early-bird", "purchase", &now, "early-bird"));
    fixture.convert(&sender, &bought("nobody", "purchase", &long_before, "expired"));
    let expected = conversions(&[
        ("attributed", 41),
        ("waiting", 2),
        ("expired", 1),
        ("before_exposure", 1),
        ("duplicates", 2),
    ]);
    let results = fixture.wait(&service, "conversions", |results| results["conversions"] == expected);
    // Who waits is counted once the exposure comes.
    evaluate(&service, "nobody");
    let early: Vec<(i64,)> = fixture.database.rows("SELECT count(*) FROM experiment_conversions");
    assert_eq!(early, [(43 + 1,)]);
    let of = |metric: usize, variant: &str| {
        let levels = results["phase"]["metrics"][metric]["levels"].as_array().unwrap();
        levels.iter().find(|found| found["variant"] == variant).unwrap().clone()
    };
    let counted = users(&results, 0);
    for variant in ["dark", "light"] {
        let bought: BTreeSet<&str> =
            buyers.iter().map(|buyer| buyer.as_str()).filter(|buyer| assigned[buyer] == variant).collect();
        let count = bought.len() as f64;
        let again = if assigned[buyers[0].as_str()] == variant { 10.0 } else { 0.0 };
        let users = counted[variant] as f64;
        assert_eq!(of(0, variant)["converted"], json!(bought.len()), "{variant}: {results:#}");
        let is_mean = |metric: usize, expected: f64| {
            let mean = of(metric, variant)["mean"].as_f64().unwrap();
            assert!((mean - expected).abs() < 1e-12, "{variant}: {results:#}");
        };
        is_mean(0, count / users);
        assert_eq!(of(1, variant)["converted"], json!(bought.len()));
        is_mean(1, (10.0 * count + again) / users);
    }
    // No user is exposed after the end; conversions still count.
    let body = json!({"reason": "enough", "winner": "dark"});
    let stopped = fixture.ask(&service, "POST", "/theme/stop", &body);
    assert_eq!((stopped.status, &stopped.json()["status"]), (200, &json!("stopped")), "{stopped:?}");
    assert_eq!(fixture.ask(&service, "POST", "/theme/stop", &body).status, 409);
    evaluate(&service, "latecomer");
    fixture.convert(&sender, &bought(&names[1], "purchase", &rfc3339(Utc::now()), "after the end"));
    wait_until("the latecomer is a row", TEST_TIMEOUT, || {
        let rows = "SELECT count(*) FROM feature_flag_evaluations WHERE user_id = 'latecomer'";
        fixture.database.number(rows) == Some(1)
    });
    fixture.database.run("UPDATE experiments SET due_at = 0");
    let results = fixture.wait(&service, "counted after the end", |results| {
        results["conversions"]["attributed"].as_i64() >= Some(42) && total(results, 0) == 61
    });
    assert_eq!(total(&results, 0), 61);
}

#[test]
fn results_say_how_recent_they_are_and_how_much_they_lack() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let mut sink = fixture.start("one");
    fixture.begin(&sink, &json!([{"name": "purchase"}]));
    let purchase = |user: &str| {
        let at = rfc3339(Utc::now());
        json!({"user_id": user, "metric": "purchase", "occurred_at": at, "event_id": user})
    };
    let convert = |service: &Service, users: &[&str]| {
        let purchases: Vec<Value> = users.iter().map(|user| purchase(user)).collect();
        assert_eq!(fixture.ask(service, "POST", "/theme/conversions", &json!(purchases)).status, 202);
    };
    ["a", "b"].iter().for_each(|user| drop(evaluate(&sink, user)));
    convert(&sink, &["a", "b"]);
    let since = |results: &Value, what: &str| results["counted"][what].as_u64();
    let counted = fixture.wait(&sink, "both are counted, and nothing is missing", |results| {
        results["conversions"]["attributed"] == 2
            && since(results, "conversions_since") == Some(0)
            && since(results, "evaluations_since") == Some(0)
    });
    let at = DateTime::parse_from_rfc3339(counted["counted"]["at"].as_str().unwrap()).unwrap();
    assert!(since(&counted, "age_seconds").is_some() && at <= Utc::now(), "{}", counted["counted"]);

    // Without a sink, nothing that comes is counted.
    let mut other = fixture.group.prepare("two").roles("evaluator,feeder,api");
    other.spawn();
    other.wait_until_ready();
    sink.stop();
    convert(&other, &["c", "d", "e"]);
    let users: Vec<String> = (0..50).map(|number| format!("user-{number}")).collect();
    users.iter().for_each(|user| drop(evaluate(&other, user)));
    let lacking = fixture.wait(&other, "what the count lacks is known", |results| {
        // One offset of each partition is taken for a transaction's marker.
        since(results, "conversions_since") == Some(3) && since(results, "evaluations_since") >= Some(40)
    });
    assert_eq!((total(&lacking, 0), &lacking["conversions"]["attributed"]), (2, &json!(2)), "{lacking}");
    let _sink = fixture.start("three");
    fixture.wait(&other, "all is counted", |results| {
        total(results, 0) == 52 && since(results, "conversions_since") == Some(0)
    });
}

#[test]
fn bad_input_names_the_field_and_counts_nothing() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let mut flags = Flags::new(&fixture.group.topics).later(100);
    flags.set(ENVIRONMENT, Flag::on("plain"));
    let variant = |name: &str| json!({"name": name, "weight": 500, "stickiness": "company"});
    let body = json!({"name": "by-company", "type": "experiment", "enabled": true,
        "strategies": [{"name": "default", "parameters": {}, "constraints": []}],
        "variants": [variant("a"), variant("b")]});
    flags.set(ENVIRONMENT, Flag::on("by-company").body(body));
    let service = fixture.start("one");
    let fields = |answer: &Answer| -> Vec<String> {
        let errors = answer.json()["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
    };
    for (change, status, field) in [
        (json!({"flag_name": "plain"}), 422, "flag_name"),
        (json!({"flag_name": "nothing"}), 422, "flag_name"),
        (json!({"flag_name": "by-company"}), 422, "flag_name"),
        (json!({"control": "green"}), 422, "control"),
        (json!({"metrics": []}), 422, "metrics"),
        (json!({"metrics": [{"name": "m", "kind": "median"}]}), 422, "metrics[0].kind"),
        (json!({"confidence": 95}), 422, "confidence"),
        (json!({"color": "red"}), 422, "color"),
    ] {
        let mut body = json!({"name": "theme", "environment": ENVIRONMENT, "metrics": [{"name": "m"}]});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = fixture.ask(&service, "POST", "", &body);
        assert_eq!(
            (answer.status, fields(&answer)),
            (status, vec![field.to_owned()]),
            "{change}: {answer:?}"
        );
    }
    assert_eq!(fixture.ask(&service, "GET", "/theme", &Value::Null).status, 404);
    assert_eq!(fixture.ask(&service, "GET", "/theme/results", &Value::Null).status, 404);
    fixture.begin(&service, &json!([{"name": "purchase"}, {"name": "revenue", "kind": "mean"}]));
    let again = json!({"name": "theme", "environment": ENVIRONMENT, "metrics": [{"name": "purchase"}]});
    assert_eq!(fixture.ask(&service, "POST", "", &again).status, 409);

    let now = Utc::now();
    let good =
        json!({"experiment": "theme", "user_id": "u", "metric": "purchase", "occurred_at": rfc3339(now)});
    let bad = [
        (json!({"user_id": null}), "user_id"),
        (json!({"user_id": ""}), "user_id"),
        (json!({"metric": null}), "metric"),
        (json!({"metric": "refund"}), "metric"),
        (json!({"metric": "revenue"}), "value"),
        (json!({"value": "NaN"}), "value"),
        (json!({"value": 0}), "value"),
        (json!({"occurred_at": "soon"}), "occurred_at"),
        (json!({"occurred_at": rfc3339(now + TimeDelta::hours(1))}), "occurred_at"),
        (json!({"occurred_at": rfc3339(now - TimeDelta::days(91))}), "occurred_at"),
    ];
    let sender = Sender::new(&fixture.group.topics.kafka);
    let mut letters = TopicReader::open(&fixture.group.topics.kafka, &fixture.group.topics.dead_letters);
    let mut refused = |body: &Value, code: &str, field: &str| {
        fixture.convert(&sender, body);
        let what = format!("a dead letter for {body}");
        let letter = letters.wait(&what, TEST_TIMEOUT, |letter| letter.json() == *body);
        assert_eq!(letter.header("error-code"), Some(code), "{body}");
        let message = letter.header("error-message").unwrap();
        assert!(message.starts_with(&format!("{field}: ")), "{body}: {message}");
    };
    for (change, field) in bad {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        refused(&body, "INVALID_CONVERSION", field);
        let answer = fixture.ask(&service, "POST", "/theme/conversions", &body);
        assert_eq!((answer.status, fields(&answer)), (422, vec![field.to_owned()]), "{body}");
        let many = fixture.ask(&service, "POST", "/theme/conversions", &json!([good, body]));
        assert_eq!((many.status, fields(&many)), (422, vec![format!("[1].{field}")]), "{body}");
    }
    let mut unknown = good.clone();
    unknown["experiment"] = json!("another");
    refused(&unknown, "UNKNOWN_EXPERIMENT", "experiment");
    unknown["experiment"] = Value::Null;
    refused(&unknown, "INVALID_CONVERSION", "experiment");
    refused(&json!("text"), "INVALID_CONVERSION", "body");
    assert_eq!(fixture.ask(&service, "POST", "/another/conversions", &good).status, 404);
    assert_eq!(fixture.ask(&service, "POST", "/theme/conversions", &json!([])).status, 422);
    assert_eq!(fixture.ask(&service, "POST", "/theme/conversions", &json!("text")).status, 400);
    // The good ones among them count.
    fixture.convert(&sender, &good);
    let expected = conversions(&[("waiting", 1)]);
    fixture.wait(&service, "the good one", |results| results["conversions"] == expected);
}

#[test]
fn other_weights_begin_another_phase() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    let begun = fixture.begin(&service, &json!([{"name": "purchase"}]));
    for number in 0..30 {
        evaluate(&service, &format!("first-{number}"));
    }
    let mut flags = Flags::new(&fixture.group.topics).later(10);
    // What it is called is no part of what it weighs.
    flags.set(ENVIRONMENT, Flag::experiment("theme", HALVES));
    let version = flags.set(ENVIRONMENT, Flag::experiment("theme", &[("dark", 900), ("light", 100)]));
    wait_until("in force", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_store_version", &[]) >= version as f64
    });
    // Users of the first phase come back, others come for the first time.
    for number in 0..30 {
        evaluate(&service, &format!("first-{number}"));
        evaluate(&service, &format!("second-{number}"));
    }
    let results =
        fixture.wait(&service, "two phases", |results| total(results, 0) == 30 && total(results, 1) == 60);
    assert_eq!(results["earlier_phases"].as_array().unwrap().len(), 1);
    let all = fixture.recount(begun["started_at"].as_str().unwrap());
    assert_eq!(all.values().sum::<i64>(), 60, "{all:?}");
    let of_phase = |versions: &str| -> BTreeMap<String, i64> {
        let query = format!(
            "SELECT variant, count(DISTINCT user_id) FROM feature_flag_evaluations
            WHERE flag_name = 'theme' AND flag_version {versions} GROUP BY 1"
        );
        fixture.database.rows(&query).into_iter().collect()
    };
    assert_eq!(users(&results, 0), of_phase(&format!("< {version}")));
    assert_eq!(users(&results, 1), of_phase(&format!(">= {version}")));
}

#[test]
fn users_whose_ids_are_hashed_are_known_again() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    fixture.group = fixture
        .group
        .set("FLAGSTREAM_PRIVACY__USER_IDS", "hash")
        .set("FLAGSTREAM_PRIVACY__HASH_KEY", "a key that nobody knows of, and long");
    let service = fixture.start("one");
    fixture.begin(&service, &json!([{"name": "purchase"}]));
    let body =
        json!({"flag_name": "theme", "user_id": "ann", "default_value": "none", "environment": ENVIRONMENT});
    assert_eq!(post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body).status, 200);
    let conversion = |id: &str| {
        json!({"experiment": "theme", "user_id": "ann", "metric": "purchase", "occurred_at": rfc3339(Utc::now()),
            "event_id": id})
    };
    let mut sent = TopicReader::open(&fixture.group.topics.kafka, &fixture.group.topics.conversions);
    assert_eq!(fixture.ask(&service, "POST", "/theme/conversions", &conversion("by-http")).status, 202);
    let sent = sent.wait("the one over HTTP", TEST_TIMEOUT, |record| record.json()["event_id"] == "by-http");
    assert_ne!(sent.json()["user_id"], "ann");
    fixture.convert(&Sender::new(&fixture.group.topics.kafka), &conversion("by-topic"));
    let expected = conversions(&[("attributed", 2)]);
    fixture.wait(&service, "both", |results| results["conversions"] == expected);
}

#[test]
fn one_that_begins_in_the_past_counts_what_was_audited() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    let started_at = rfc3339(Utc::now());
    for number in 0..25 {
        evaluate(&service, &format!("user-{number}"));
    }
    wait_until("rows", TEST_TIMEOUT, || fixture.database.audited() == 25);
    let body = json!({"name": "theme", "environment": ENVIRONMENT, "metrics": [{"name": "m"}],
        "started_at": started_at});
    assert_eq!(fixture.ask(&service, "POST", "", &body).status, 201);
    for number in 20..30 {
        evaluate(&service, &format!("user-{number}"));
    }
    let results = fixture.wait(&service, "all of them", |results| total(results, 0) == 30);
    assert_eq!(users(&results, 0), fixture.recount(&started_at));
    // A user who is forgotten is none of them.
    let erased = crate::harness::flagstream(
        fixture.group.folder.path(),
        &["erase", "--user", "user-3"],
        fixture.group.settings(),
    );
    assert!(erased.status.success(), "{erased:?}");
    let results = fixture.wait(&service, "one less", |results| total(results, 0) == 29);
    assert_eq!(users(&results, 0), fixture.recount(&started_at));
}

#[test]
fn statistics_agree_with_scipy() {
    statistics::agree_with_scipy();
}
