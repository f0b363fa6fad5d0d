//! Random flags in real Unleash, evaluated by the official Node SDK and by flagstream.

use std::collections::BTreeMap;
use std::process::Command;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::harness::{
    Admin, FlagSpec, Group, Proxy, Sender, Stack, TEST_TIMEOUT, TopicReader, block_on, client, is_long,
    rollout, temporary_folder,
};

const FLAGS: usize = 210;
const CONTEXTS: usize = 50;
const REGIONS: [&str; 5] = ["north", "south", "East", "west-1", "west-2"];
const VERSIONS: [&str; 6] = ["1.0.0", "1.2.3", "1.2.3-beta.1", "2.0.0-rc.1", "2.0.0", "10.1.0"];
const DATES: [&str; 4] = [
    "2001-01-01T00:00:00.000Z",
    "2024-02-29T12:00:00.000Z",
    "2024-03-01T00:00:00.000Z",
    "2099-12-31T23:59:59.000Z",
];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.1.17", "192.168.7.9", "2001:db8::7"];

/// Answer of one SDK for one flag and context: on, variant, the variant's payload.
type Verdict = (bool, Option<String>, Option<String>);

#[test]
fn flagstream_agrees_with_the_node_sdk_on_random_flags() {
    let (stack, _shared) = Stack::shared();
    for round in 0..if is_long() { 10 } else { 1 } {
        let seed = rand::random();
        println!("round {round}: seed {seed}");
        compare(stack, StdRng::seed_from_u64(seed));
    }
}

fn compare(stack: &Stack, mut chance: StdRng) {
    let group = Group::new(stack);
    let prefix = group.topics.prefix.clone();
    let admin = Admin::new(stack, &prefix);
    let flags = make_flags(&admin, &mut chance);
    let contexts: Vec<Value> = (0..CONTEXTS).map(|number| context(&mut chance, number)).collect();

    let proxy = Proxy::start(stack, &prefix);
    let node = by_node(stack, &proxy, &contexts);
    let group = group
        .set("UNLEASH_URL", &proxy.url)
        .set("UNLEASH_API_TOKEN", &stack.unleash.development_token)
        .set("UNLEASH_REFRESH_INTERVAL", "200ms");
    let ours = by_flagstream(&group, &admin, &flags, &contexts);

    let (mut mismatches, mut excluded, mut on, mut with_variant) = (Vec::new(), 0, 0, 0);
    for flag in &flags {
        let name = admin.name(&flag.name);
        let excuse = excuse(flag);
        for (index, context) in contexts.iter().enumerate() {
            let (theirs, ours) = (&node[&name][index], &ours[&name][index]);
            on += usize::from(ours.0);
            with_variant += usize::from(ours.1.is_some());
            match (theirs == ours, excuse) {
                (true, _) => {}
                (false, Some(_)) => excluded += 1,
                (false, None) => {
                    mismatches.push(format!("{flag:#?}\n{context}\nnode {theirs:?}, flagstream {ours:?}"))
                }
            }
        }
    }
    let total = FLAGS * CONTEXTS;
    println!("{total} evaluations: {on} on, {with_variant} with a variant, {excluded} differ where SDKs do");
    assert!(
        mismatches.is_empty(),
        "{} of {total} differ, such as\n{}",
        mismatches.len(),
        mismatches[..mismatches.len().min(3)].join("\n\n")
    );
    // It would agree on nothing, too.
    assert!(on > total / 10 && on < total * 9 / 10, "{on} of {total} on");
    assert!(with_variant > total / 50, "{with_variant} of {total} with a variant");
}

/// Where Unleash's own SDKs disagree with each other, as docs/api.md names.
fn excuse(flag: &FlagSpec) -> Option<&'static str> {
    let own_stickiness = flag.strategies.iter().any(|strategy| {
        let variants = strategy["variants"].as_array();
        variants.is_some_and(|variants| {
            variants.iter().any(|variant| variant["stickiness"] != strategy["parameters"]["stickiness"])
        })
    });
    let parent_variant = flag.dependencies.iter().any(|dependency| dependency["variants"].is_array());
    match (own_stickiness, parent_variant) {
        (true, _) => Some("strategy variants with a stickiness of their own"),
        (_, true) => Some("a dependency on a parent's variant"),
        _ => None,
    }
}

fn make_flags(admin: &Admin, chance: &mut StdRng) -> Vec<FlagSpec> {
    admin.define_strategies(&["gradualRolloutUserId", "gradualRolloutSessionId"]);
    let segments: Vec<u64> = (0..6)
        .map(|number| {
            let constraints = json!([constraint(chance), constraint(chance)]);
            admin.create_segment(&format!("segment-{number}"), &constraints)
        })
        .collect();
    let mut flags: Vec<FlagSpec> = (0..FLAGS).map(|number| flag(chance, number, &segments)).collect();
    let parents = FLAGS / 3;
    for index in parents..FLAGS {
        if chance.random_bool(0.2) {
            let parent = admin.name(&flags[chance.random_range(0..parents)].name);
            let mut dependency = json!({"feature": parent, "enabled": chance.random_bool(0.8)});
            if dependency["enabled"] == true && chance.random_bool(0.1) {
                dependency["variants"] = json!(["v0"]);
            }
            flags[index].dependencies.push(dependency);
        }
    }
    // A parent must be there before its children.
    admin.make_all(&flags[..parents]);
    admin.make_all(&flags[parents..]);
    // Unleash serves changes in their order: when it serves this one, it serves all.
    admin.create("last", &rollout(&json!([])));
    flags
}

fn flag(chance: &mut StdRng, number: usize, segments: &[u64]) -> FlagSpec {
    let strategies = (0..chance.random_range(1..=3)).map(|_| strategy(chance, segments)).collect();
    FlagSpec {
        name: format!("flag-{number}"),
        strategies,
        variants: chance.random_bool(0.3).then(|| variants(chance, None)),
        dependencies: Vec::new(),
        on: chance.random_bool(0.9),
    }
}

fn strategy(chance: &mut StdRng, segments: &[u64]) -> Value {
    let rollout = chance.random_range(0..=100).to_string();
    let group = format!("group-{}", chance.random_range(0..4));
    let (name, parameters) = match chance.random_range(0..10) {
        0 => ("default", json!({})),
        1 => ("remoteAddress", json!({"IPs": "10.0.0.1, 192.168.0.0/16,10.0.1.0/28"})),
        2 => ("gradualRolloutUserId", json!({"percentage": rollout, "groupId": group})),
        3 => ("gradualRolloutSessionId", json!({"percentage": rollout, "groupId": group})),
        _ => {
            let stickiness = *["default", "userId", "sessionId", "region"].choose(chance).unwrap();
            ("flexibleRollout", json!({"rollout": rollout, "groupId": group, "stickiness": stickiness}))
        }
    };
    let constraints: Vec<_> =
        (0..*[0, 0, 1, 1, 2].choose(chance).unwrap()).map(|_| constraint(chance)).collect();
    let chosen: Vec<_> = segments.iter().filter(|_| chance.random_bool(0.06)).collect();
    let mut strategy = json!({
        "name": name, "parameters": parameters, "constraints": constraints, "segments": chosen,
    });
    if name == "flexibleRollout" && chance.random_bool(0.3) {
        // The SDKs disagree on another stickiness than the strategy's: some have it all the same.
        let stickiness = strategy["parameters"]["stickiness"].as_str().unwrap().to_owned();
        let stickiness = if chance.random_bool(0.1) { "userId".to_owned() } else { stickiness };
        strategy["variants"] = variants(chance, Some(&stickiness));
    }
    strategy
}

fn variants(chance: &mut StdRng, stickiness: Option<&str>) -> Value {
    let count = chance.random_range(1..=4);
    let stickiness = stickiness.unwrap_or(["default", "userId"].choose(chance).unwrap()).to_owned();
    let in_strategy_weights = 1000 / count;
    let mut all: Vec<Value> = (0..count)
        .map(|number| {
            let mut variant = json!({
                "name": format!("v{number}"), "weightType": "variable", "weight": in_strategy_weights,
                "stickiness": stickiness,
            });
            match chance.random_range(0..3) {
                0 => variant["payload"] = json!({"type": "string", "value": format!("text {number}")}),
                1 => variant["payload"] = json!({"type": "number", "value": format!("{number}")}),
                _ => {}
            }
            variant
        })
        .collect();
    all[0]["weight"] = json!(1000 - in_strategy_weights * (count - 1));
    json!(all)
}

/// A constraint on a field of the contexts, with an operator that fits it.
fn constraint(chance: &mut StdRng) -> Value {
    let (inverted, case) = (chance.random_bool(0.2), chance.random_bool(0.5));
    let one_of = |chance: &mut StdRng, all: &[&str]| (*all.choose(chance).unwrap()).to_owned();
    let several = |chance: &mut StdRng, all: &[&str]| -> Vec<String> {
        let count = chance.random_range(1..=2);
        all.choose_multiple(chance, count).map(|&text| text.to_owned()).collect()
    };
    let base = json!({"inverted": inverted, "caseInsensitive": case});
    let with = |members: Value| {
        let mut all = base.clone();
        all.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        all
    };
    match chance.random_range(0..6) {
        0 => {
            let operator = one_of(chance, &["IN", "NOT_IN"]);
            with(json!({"contextName": "region", "operator": operator, "values": several(chance, &REGIONS)}))
        }
        1 => {
            let operator = one_of(chance, &["STR_CONTAINS", "STR_STARTS_WITH", "STR_ENDS_WITH"]);
            let parts = several(chance, &["we", "EAST", "st", "-1", "th", "zzz"]);
            with(json!({"contextName": "region", "operator": operator, "values": parts}))
        }
        2 => {
            let operator = one_of(chance, &["NUM_EQ", "NUM_GT", "NUM_GTE", "NUM_LT", "NUM_LTE"]);
            let number = one_of(chance, &["0", "-1.5", "17", "18", "18.0", "99"]);
            with(json!({"contextName": "age", "operator": operator, "value": number}))
        }
        3 => {
            let operator = one_of(chance, &["DATE_AFTER", "DATE_BEFORE"]);
            with(json!({"contextName": "currentTime", "operator": operator, "value": one_of(chance, &DATES)}))
        }
        4 => {
            let operator = one_of(chance, &["SEMVER_EQ", "SEMVER_GT", "SEMVER_LT"]);
            with(json!({"contextName": "version", "operator": operator, "value": one_of(chance, &VERSIONS)}))
        }
        _ => {
            let operator = one_of(chance, &["IN", "NOT_IN"]);
            let users: Vec<_> =
                (0..CONTEXTS).filter(|_| chance.random_bool(0.3)).map(|n| format!("user-{n}")).collect();
            with(json!({"contextName": "userId", "operator": operator, "values": users}))
        }
    }
}

/// Every context has a user: without one, stickiness is random.
fn context(chance: &mut StdRng, number: usize) -> Value {
    let mut context = json!({"userId": format!("user-{number}")});
    if chance.random_bool(0.8) {
        context["sessionId"] = json!(format!("session-{}", chance.random_range(0..20)));
    }
    if chance.random_bool(0.7) {
        context["remoteAddress"] = json!(ADDRESSES.choose(chance).unwrap());
    }
    if chance.random_bool(0.5) {
        context["currentTime"] = json!(DATES.choose(chance).unwrap());
    }
    let mut properties = json!({});
    if chance.random_bool(0.8) {
        properties["region"] = json!(REGIONS.choose(chance).unwrap());
    }
    if chance.random_bool(0.8) {
        properties["age"] = json!(["17", "18", "18.0", "-2", "200", "old"].choose(chance).unwrap());
    }
    if chance.random_bool(0.8) {
        properties["version"] = json!(VERSIONS.choose(chance).unwrap());
    }
    context["properties"] = properties;
    context
}

fn by_node(stack: &Stack, proxy: &Proxy, contexts: &[Value]) -> BTreeMap<String, Vec<Verdict>> {
    let folder = temporary_folder();
    let features: Value = block_on(async {
        let request = client()
            .get(format!("{}/api/client/features", proxy.url))
            .header("authorization", &stack.unleash.development_token)
            // Segments come beside the flags, as the SDK asks for them.
            .header("unleash-client-spec", "5.2.2");
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    });
    std::fs::write(folder.path().join("features.json"), features.to_string()).unwrap();
    std::fs::write(folder.path().join("contexts.json"), json!(contexts).to_string()).unwrap();
    let output = Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/differential.mjs"))
        .args(["features.json", "contexts.json"])
        .current_dir(folder.path())
        .env("FLAGSTREAM_TEST_NODE_MODULES", &stack.node_modules)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn by_flagstream(
    group: &Group,
    admin: &Admin,
    flags: &[FlagSpec],
    contexts: &[Value],
) -> BTreeMap<String, Vec<Verdict>> {
    let topics = &group.topics;
    let _service = group.start("one");
    let mut definitions = TopicReader::open(&topics.kafka, &topics.definitions);
    definitions.until("all definitions", TEST_TIMEOUT, |seen| seen.len() > flags.len());
    let highest = definitions.seen.iter().map(|record| record.json()["version"].as_u64().unwrap()).max();
    let (sender, mut events) = (Sender::new(&topics.kafka), TopicReader::open(&topics.kafka, &topics.events));
    // All definitions are in force when the one with the highest version is.
    let last = definitions.seen.iter().find(|record| record.json()["version"].as_u64() == highest).unwrap();
    let last = last.json()["flag_name"].clone();
    crate::harness::wait_until("all flags in force", TEST_TIMEOUT, || {
        let body = json!({"flag_name": last, "user_id": "u"}).to_string();
        let asked = sender.send(&topics.requests, Some(0), None, body.as_bytes(), None);
        let is_answer = |event: &crate::harness::Received| {
            let body = event.json();
            body["source"]["partition"] == asked.0 && body["source"]["offset"] == asked.1
        };
        let event = events.wait("an answer", TEST_TIMEOUT, is_answer).json();
        event["flag_version"].as_u64() == highest
    });
    let names: Vec<String> = flags.iter().map(|flag| admin.name(&flag.name)).collect();
    for (number, context) in contexts.iter().enumerate() {
        let mut flat = context["properties"].clone();
        for field in ["remoteAddress", "currentTime", "sessionId"] {
            if !context[field].is_null() {
                flat[field] = context[field].clone();
            }
        }
        let types: BTreeMap<_, _> = names.iter().map(|name| (name, "string")).collect();
        let body = json!({
            "request_id": format!("{number}"), "flag_names": names, "value_types": types,
            "user_id": context["userId"], "context": flat,
        });
        sender.send(&topics.requests, None, None, body.to_string().as_bytes(), None);
    }
    let evaluated = |event: &Value| event["request_id"].is_string();
    let wanted = flags.len() * contexts.len();
    events.until("all evaluations", TEST_TIMEOUT * 2, |seen| seen.len() >= wanted);
    let mut all: BTreeMap<String, Vec<Verdict>> = BTreeMap::new();
    let mut seen: Vec<Value> = Vec::new();
    for _ in 0..100 {
        seen = events.seen.iter().map(crate::harness::Received::json).filter(evaluated).collect();
        if seen.len() == wanted {
            break;
        }
        let count = events.seen.len();
        events.until("more evaluations", TEST_TIMEOUT, |seen| seen.len() > count);
    }
    for event in &seen {
        let context: usize = event["request_id"].as_str().unwrap().parse().unwrap();
        let verdicts = all
            .entry(event["flag_name"].as_str().unwrap().to_owned())
            .or_insert_with(|| vec![(false, None, None); contexts.len()]);
        let variant = event["variant"].as_str().map(str::to_owned);
        let value = event["typed_value"].as_str().map(str::to_owned);
        // Without a payload the value is the variant's name.
        let payload = value.filter(|value| variant.as_ref().is_some_and(|variant| variant != value));
        verdicts[context] = (event["enabled"] == true, variant, payload);
    }
    all
}
