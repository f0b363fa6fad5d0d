//! Random contexts, answered by Unleash's own frontend API and by flagstream.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::Fixture;
use crate::harness::{FlagSpec, Stack, TEST_TIMEOUT, block_on, client, is_long, rollout, wait_until};

const FLAGS: usize = 40;
const CALLS_AT_ONCE: usize = 32;

#[test]
fn frontend_answers_equal_those_of_unleash_for_random_contexts() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let flags: Vec<FlagSpec> = (0..FLAGS).map(|number| flag(&mut chance, number)).collect();
    fixture.admin.make_all(&flags);
    fixture.admin.create("last", &rollout(&json!([])));
    let service = fixture.group.start("one");
    let (ours, theirs) = (&service.url, &stack.unleash.url);
    let everyone = |url: &str| block_on(toggles(url, &fixture, "userId=somebody"));
    let last = fixture.admin.name("last");
    wait_until("both serve all flags", TEST_TIMEOUT, || {
        let has_last = |url| everyone(url).iter().any(|toggle| toggle["name"] == last);
        has_last(ours) && has_last(theirs)
    });
    let count = if is_long() { 10_000 } else { 1_000 };
    let queries: Vec<String> = (0..count).map(|number| query(&mut chance, number)).collect();
    let (mut on, mut differing) = (0, Vec::new());
    for some in queries.chunks(CALLS_AT_ONCE) {
        let answers = block_on(async {
            let both = some.iter().map(async |query| {
                let both = tokio::join!(toggles(ours, &fixture, query), toggles(theirs, &fixture, query));
                (query.clone(), both.0, both.1)
            });
            futures_util::future::join_all(both).await
        });
        for (query, ours, theirs) in answers {
            on += ours.len();
            if ours != theirs {
                differing.push(format!("{query}\nours   {}\ntheirs {}", json!(ours), json!(theirs)));
            }
        }
    }
    println!("{count} contexts, {FLAGS} flags: {on} on");
    if let Some(first) = differing.first() {
        let differs = differing.len();
        let flags: Vec<_> = flags.iter().map(|flag| json!({flag.name.as_str(): flag.strategies})).collect();
        panic!("{differs} of {count} differ, such as\n{first}\nflags {}", json!(flags));
    }
    assert!(on > count * FLAGS / 20 && on < count * FLAGS, "{on}");
}

/// Results of this test's flags, sorted, in the members that both have.
async fn toggles(url: &str, fixture: &Fixture, query: &str) -> Vec<Value> {
    let request =
        client().get(format!("{url}/api/frontend?{query}")).header("authorization", &fixture.frontend);
    let response = request.send().await.unwrap().error_for_status().unwrap();
    let body: Value = response.json().await.unwrap();
    let prefix = &fixture.group.topics.prefix;
    let is_own =
        |toggle: &&Value| toggle["name"].as_str().is_some_and(|name| name.starts_with(prefix.as_str()));
    let mut toggles: Vec<Value> =
        body["toggles"].as_array().unwrap().iter().filter(is_own).cloned().collect();
    toggles.sort_by_key(|toggle| toggle["name"].as_str().unwrap().to_owned());
    for toggle in &mut toggles {
        let variant = &toggle["variant"];
        let variant =
            json!({"name": variant["name"], "enabled": variant["enabled"], "payload": variant["payload"]});
        *toggle = json!({"name": toggle["name"], "enabled": toggle["enabled"], "variant": variant,
            "impressionData": toggle["impressionData"]});
    }
    toggles
}

fn flag(chance: &mut StdRng, number: usize) -> FlagSpec {
    let strategies = (0..chance.random_range(1..=2)).map(|_| strategy(chance)).collect();
    let variants = chance.random_bool(0.3).then(|| variants(chance, "default"));
    FlagSpec {
        name: format!("flag-{number}"),
        strategies,
        variants,
        dependencies: Vec::new(),
        on: chance.random_bool(0.9),
    }
}

fn strategy(chance: &mut StdRng) -> Value {
    let stickiness = *["default", "userId", "sessionId", "companyId"].choose(chance).unwrap();
    let constraints: Vec<_> =
        (0..*[0, 0, 1, 2].choose(chance).unwrap()).map(|_| constraint(chance)).collect();
    let mut strategy = json!({"name": "flexibleRollout", "constraints": constraints, "segments": [],
        "parameters": {"rollout": chance.random_range(0..=100).to_string(), "groupId": "g", "stickiness": stickiness}});
    if chance.random_bool(0.3) {
        strategy["variants"] = variants(chance, stickiness);
    }
    strategy
}

fn variants(chance: &mut StdRng, stickiness: &str) -> Value {
    let variant = |name: &str, weight: u32, payload: bool| {
        let mut variant =
            json!({"name": name, "weight": weight, "weightType": "variable", "stickiness": stickiness});
        if payload {
            variant["payload"] = json!({"type": "string", "value": format!("{name}-value")});
        }
        variant
    };
    let weight = chance.random_range(1..1000);
    json!([variant("a", weight, chance.random_bool(0.5)), variant("b", 1000 - weight, false)])
}

fn constraint(chance: &mut StdRng) -> Value {
    let (inverted, case) = (chance.random_bool(0.2), chance.random_bool(0.5));
    let base = json!({"inverted": inverted, "caseInsensitive": case});
    let more = match chance.random_range(0..6) {
        0 => json!({"contextName": "region", "operator": "IN", "values": ["eu", "us"]}),
        1 => json!({"contextName": "region", "operator": "STR_STARTS_WITH", "values": ["E", "u"]}),
        2 => json!({"contextName": "age", "operator": "NUM_GTE", "value": "18"}),
        3 => json!({"contextName": "appName", "operator": "IN", "values": ["web"]}),
        4 => json!({"contextName": "remoteAddress", "operator": "IN", "values": ["10.0.0.1"]}),
        _ => json!({"contextName": "version", "operator": "SEMVER_GT", "value": "1.2.0"}),
    };
    let mut all = base;
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

/// A context always has a session: without one, Unleash draws a session at random, even if there is a user.
fn query(chance: &mut StdRng, number: usize) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if chance.random_bool(0.7) {
        query.append_pair("userId", &format!("user-{number}"));
    }
    query.append_pair("sessionId", &format!("session-{number}"));
    query.append_pair("appName", ["web", "phone"].choose(chance).unwrap());
    if chance.random_bool(0.5) {
        query.append_pair("remoteAddress", ["10.0.0.1", "10.0.0.2"].choose(chance).unwrap());
    }
    for (name, values) in [
        ("region", ["eu", "Eu"]),
        ("age", ["17", "18.5"]),
        ("version", ["1.10.0", "1.2.0"]),
        ("companyId", ["a", "b"]),
    ] {
        if chance.random_bool(0.7) {
            let name = if chance.random_bool(0.8) { format!("properties[{name}]") } else { name.to_owned() };
            query.append_pair(&name, values.choose(chance).unwrap());
        }
    }
    query.finish()
}
