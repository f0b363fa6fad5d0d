//! All suites of Unleash's client specification.
//!
//! They come from npm: `FLAGSTREAM_TEST_NODE_MODULES` names the folder whose `node_modules` has
//! `@unleash/client-specification` 6.1.0.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use flagstream::flag::definition::{Segments, inline_segments};
use flagstream::flag::{CompiledFlag, EvaluationContext, FlagChange, Moment, Outcome, Snapshot};
use serde_json::{Value, json};

const SUITES: usize = 22;

#[test]
fn every_suite_of_the_client_specification_passes() {
    let suites = suites();
    let (mut cases, mut failures) = (0, Vec::new());
    for (file, suite) in &suites {
        let snapshot = snapshot(suite);
        for (kind, check) in [("tests", enabled as Check), ("variantTests", variant as Check)] {
            for test in suite[kind].as_array().into_iter().flatten() {
                cases += 1;
                let answer = check(&snapshot, test);
                if answer != test["expectedResult"] {
                    let description = test["description"].as_str().unwrap_or_default();
                    failures
                        .push(format!("{file}: {description}\n    {answer}, not {}", test["expectedResult"]));
                }
            }
        }
    }
    println!("{cases} cases in {} suites", suites.len());
    assert!(failures.is_empty(), "{} of {cases} fail:\n{}", failures.len(), failures.join("\n"));
    assert!(cases >= 250, "only {cases} cases: has the specification moved?");
}

/// Each suite, after its file's name.
pub fn suites() -> Vec<(String, Value)> {
    let folder = specifications();
    let index: Vec<String> = serde_json::from_str(&read(&folder.join("index.json"))).unwrap();
    assert_eq!(index.len(), SUITES, "suites listed in {}", folder.display());
    let suite = |file: String| {
        let suite = serde_json::from_str(&read(&folder.join(&file))).unwrap();
        (file, suite)
    };
    index.into_iter().map(suite).collect()
}

/// The definitions that a suite's state leads to.
pub fn definitions(suite: &Value) -> Vec<Value> {
    let (mut features, mut segments) = (BTreeMap::new(), BTreeMap::new());
    for event in events(suite) {
        for name in apply(&event, &mut features, &mut segments) {
            features.remove(&name);
        }
    }
    let known = Segments::read(&segments.into_values().collect()).unwrap();
    let definition = |feature: &Value| inline_segments(&feature.to_string(), &known).unwrap();
    features.values().map(|feature| serde_json::from_str(&definition(feature)).unwrap()).collect()
}

type Check = fn(&Snapshot, &Value) -> Value;

fn enabled(snapshot: &Snapshot, test: &Value) -> Value {
    evaluate(snapshot, test, |outcome| outcome.is_some_and(|outcome| outcome.enabled).into())
}

fn variant(snapshot: &Snapshot, test: &Value) -> Value {
    evaluate(snapshot, test, |outcome| {
        let on = outcome.is_some_and(|outcome| outcome.enabled);
        let variant = outcome.and_then(|outcome| outcome.variant).map(|(_, variant)| variant);
        let name = variant.map_or("disabled", |variant| &variant.name);
        let mut answer = json!({ "name": name, "enabled": variant.is_some(), "feature_enabled": on });
        if let Some(payload) = variant.and_then(|variant| variant.payload.as_ref()) {
            answer["payload"] = json!({ "type": payload.kind, "value": payload.text });
        }
        answer
    })
}

fn evaluate(snapshot: &Snapshot, test: &Value, read: impl Fn(Option<Outcome<'_>>) -> Value) -> Value {
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "test-host", app_name: "spec" };
    let flag = test["toggleName"].as_str().unwrap();
    let flags = snapshot.environment(environment_of(test)).unwrap();
    read(flags.evaluate(flag, &context(&test["context"]), &moment))
}

/// The suites' environment is the context's.
pub fn environment_of(test: &Value) -> &str {
    test["context"]["environment"].as_str().unwrap_or("default")
}

pub fn context(context: &Value) -> EvaluationContext<'static> {
    let field = |name: &str| context[name].as_str().map(|text| text.to_owned().into());
    let properties = context["properties"].as_object().into_iter().flatten();
    EvaluationContext {
        user_id: field("userId"),
        session_id: field("sessionId"),
        remote_address: field("remoteAddress"),
        current_time: field("currentTime"),
        app_name: field("appName"),
        properties: properties
            .filter_map(|(name, value)| {
                let text = match value {
                    Value::Null => return None,
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                Some((name.clone().into(), text.into()))
            })
            .collect(),
        ..EvaluationContext::default()
    }
}

/// The snapshot that a suite's state leads to, in every environment that its tests name; a delta's events are
/// applied one after the other.
pub fn snapshot(suite: &Value) -> Snapshot {
    let tests = ["tests", "variantTests"].map(|kind| suite[kind].as_array());
    let environments: BTreeSet<&str> = tests.into_iter().flatten().flatten().map(environment_of).collect();
    let (mut features, mut segments) = (BTreeMap::new(), BTreeMap::new());
    let mut snapshot = Snapshot::default().serving(environments.iter().copied());
    for (version, event) in (1..).zip(events(suite)) {
        let removed = apply(&event, &mut features, &mut segments);
        let known = Segments::read(&segments.values().cloned().collect()).unwrap();
        for environment in &environments {
            let removals = removed.iter().map(|name| FlagChange::Remove {
                environment: (*environment).into(),
                name: name.as_str().into(),
                version,
            });
            let sets = features.values().filter_map(|feature| set(environment, version, feature, &known));
            snapshot = snapshot.with(removals.chain(sets));
        }
        assert_eq!(snapshot.version(), version);
    }
    snapshot
}

fn events(suite: &Value) -> Vec<Value> {
    let state = &suite["state"];
    let hydration =
        || json!([{ "type": "hydration", "features": state["features"], "segments": state["segments"] }]);
    let events = state.get("events").cloned().unwrap_or_else(hydration);
    events.as_array().unwrap().clone()
}

/// Applies one event of a delta; names the flags that it removed.
fn apply(
    event: &Value,
    features: &mut BTreeMap<String, Value>,
    segments: &mut BTreeMap<i64, Value>,
) -> Vec<String> {
    let name = |feature: &Value| feature["name"].as_str().unwrap().to_owned();
    let id = |segment: &Value| segment["id"].as_i64().unwrap();
    match event["type"].as_str().unwrap() {
        "hydration" => {
            let list = |key: &str| event[key].as_array().cloned().unwrap_or_default();
            features.extend(list("features").into_iter().map(|feature| (name(&feature), feature)));
            segments.extend(list("segments").into_iter().map(|segment| (id(&segment), segment)));
        }
        "feature-updated" => drop(features.insert(name(&event["feature"]), event["feature"].clone())),
        "segment-updated" => drop(segments.insert(id(&event["segment"]), event["segment"].clone())),
        "segment-removed" => drop(segments.remove(&event["segmentId"].as_i64().unwrap())),
        "feature-removed" => {
            let name = event["featureName"].as_str().unwrap();
            features.remove(name);
            return vec![name.to_owned()];
        }
        other => panic!("an event of a delta unknown here: {other}"),
    }
    Vec::new()
}

fn set(environment: &str, version: u64, feature: &Value, segments: &Segments) -> Option<FlagChange> {
    let definition = inline_segments(&feature.to_string(), segments).unwrap();
    match CompiledFlag::compile(environment, version, &definition) {
        Ok(flag) => Some(FlagChange::Set(Arc::new(flag))),
        // Off, the specification says; refused, say we: what was never accepted isn't on either.
        Err(error) if feature["name"] == "F7.invalid-operator" => {
            assert_eq!(error.field, "strategies[0].constraints[0].operator");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn specifications() -> PathBuf {
    let root = std::env::var("FLAGSTREAM_TEST_NODE_MODULES").expect(
        "FLAGSTREAM_TEST_NODE_MODULES must name the folder that holds `node_modules` with \
         @unleash/client-specification (npm install @unleash/client-specification@6.1.0)",
    );
    let root = PathBuf::from(root);
    let candidates = [root.join("node_modules"), root.clone()];
    let folder = candidates.iter().map(|folder| folder.join("@unleash/client-specification/specifications"));
    let found: Vec<PathBuf> = folder.filter(|folder| folder.is_dir()).collect();
    let found = found.first().cloned();
    found.unwrap_or_else(|| panic!("no @unleash/client-specification in {}", root.display()))
}

fn read(file: &std::path::Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
