//! Layers of mutually exclusive experiments, and a global holdout, drawn as documented.

use serde_json::{Value, json};

use super::{ENVIRONMENT, Fixture, total};
use crate::harness::{Service, Stack, TEST_TIMEOUT, post, wait_until};

/// Users of the test.
const USERS: usize = 300;

/// Creates a local flag.
fn create(service: &Service, flag: &Value) {
    let answer = post(&format!("{}/api/v1/feature-flags", service.url), flag);
    assert_eq!(answer.status, 201, "{flag}: {answer:?}");
}

/// A flag of an experiment that depends on other flags.
fn experiment(name: &str, depends_on: &Value) -> Value {
    json!({"name": name, "environment": ENVIRONMENT, "type": "experiment", "value_type": "string", "is_enabled": true,
        "default_value": "none", "depends_on": depends_on, "variants": [
            {"name": "old", "weight": 50, "value": "old"}, {"name": "new", "weight": 50, "value": "new"}]})
}

/// A flag whose variants divide the users.
fn dividing(name: &str, shares: &[(&str, u32)], depends_on: &Value) -> Value {
    let variant = |(name, weight): &(&str, u32)| json!({"name": name, "weight": weight, "value": name});
    json!({"name": name, "environment": ENVIRONMENT, "type": "release", "value_type": "string", "is_enabled": true,
        "default_value": "none", "depends_on": depends_on, "variants": shares.iter().map(variant).collect::<Vec<_>>()})
}

/// Variant of each flag for each user; `null` if the flag is off.
fn evaluate_all(service: &Service, flags: &[&str], users: &[String]) -> Vec<Value> {
    let defaults: serde_json::Map<String, Value> =
        flags.iter().map(|flag| ((*flag).to_owned(), json!("none"))).collect();
    let contexts: Vec<Value> = users.iter().map(|user| json!({"user_id": user})).collect();
    let body = json!({"flag_names": flags, "default_values": defaults, "environment": ENVIRONMENT, "contexts": contexts});
    let answer = post(&format!("{}/api/v1/feature-flags/evaluate/bulk", service.url), &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let of_context = |context: &Value| {
        let variant = |flag: &&str| {
            let result = &context["results"][*flag];
            let on = result["enabled"] == true;
            ((*flag).to_owned(), if on { result["variant"].clone() } else { Value::Null })
        };
        Value::Object(flags.iter().map(variant).collect())
    };
    answer["contexts"].as_array().unwrap_or_else(|| panic!("{answer}")).iter().map(of_context).collect()
}

fn evaluate(service: &Service, flags: &[&str], user: &str) -> Value {
    evaluate_all(service, flags, &[user.to_owned()]).remove(0)
}

/// Rows of the table of test vectors in docs/api.md: flag, user and variant.
fn documented() -> Vec<[String; 3]> {
    let text = include_str!("../../../docs/api.md");
    let rows = text.lines().filter(|line| {
        line.starts_with("| `checkout-layer` | `user-") || line.starts_with("| `company-holdout` | `user-")
    });
    let cell = |text: &str| text.trim().trim_matches('`').to_owned();
    let row = |line: &str| {
        let cells: Vec<String> = line.trim_matches('|').split('|').map(cell).collect();
        [cells[0].clone(), cells[1].clone(), cells[4].clone()]
    };
    rows.map(row).collect()
}

#[test]
fn experiments_of_a_layer_have_different_users_and_none_has_those_who_are_held_out() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    create(&service, &dividing("company-holdout", &[("held-out", 50), ("included", 950)], &json!([])));
    let slots = [("slot-a", 300), ("slot-b", 300), ("rest", 400)];
    let included = json!([{"flag": "company-holdout", "variants": ["included"]}]);
    create(&service, &dividing("checkout-layer", &slots, &json!([])));
    create(&service, &dividing("other-layer", &slots, &included));
    let of = |slot: &str| json!([{"flag": "checkout-layer", "variants": [slot]}, {"flag": "company-holdout", "variants": ["included"]}]);
    create(&service, &experiment("one", &of("slot-a")));
    create(&service, &experiment("two", &of("slot-b")));
    create(&service, &experiment("third", &of("slot-b")));
    create(&service, &experiment("through", &json!([{"flag": "other-layer", "variants": ["slot-a"]}])));
    create(&service, &experiment("alone", &json!([])));
    wait_until("all flags are in force", TEST_TIMEOUT, || {
        let found = evaluate(&service, &["alone", "company-holdout"], "user-1");
        found["company-holdout"] == "included" && !found["alone"].is_null()
    });
    let request = |name: &str, more: Value| {
        let mut body = json!({"name": name, "environment": ENVIRONMENT, "metrics": [{"name": "purchase"}], "control": "old"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let both = json!({"layer": "checkout-layer", "global_holdout": "company-holdout"});
    let begun = fixture.create(&service, &request("one", both.clone()));
    assert_eq!(begun["layer"], json!({"flag_name": "checkout-layer", "variants": ["slot-a"]}), "{begun:#}");
    assert_eq!(begun["global_holdout"], json!({"flag_name": "company-holdout", "variants": ["included"]}));
    fixture.create(&service, &request("two", both.clone()));
    let through = json!({"layer": "other-layer", "global_holdout": "company-holdout"});
    fixture.create(&service, &request("through", through));

    let refused = |body: &Value| {
        let mut answer = fixture.ask(&service, "POST", "", body);
        wait_until("the definitions are in the database", TEST_TIMEOUT, || {
            if answer.status == 503 {
                answer = fixture.ask(&service, "POST", "", body);
            }
            answer.status != 503
        });
        assert_eq!(answer.status, 422, "{answer:?}");
        let error = answer.json()["errors"][0].clone();
        format!("{}: {}", error["field"].as_str().unwrap(), error["message"].as_str().unwrap())
    };
    let taken = refused(&request("third", both.clone()));
    assert!(
        taken
            .starts_with("layer: the variant slot-b of checkout-layer belongs to the running experiment two"),
        "{taken}"
    );
    let independent = refused(&request("alone", json!({"layer": "checkout-layer"})));
    assert!(
        independent.starts_with("layer: the flag alone does not depend on variants of checkout-layer"),
        "{independent}"
    );
    let unknown = refused(&request("alone", json!({"global_holdout": "nothing"})));
    assert!(unknown.starts_with("global_holdout: there is no flag nothing"), "{unknown}");

    // Each user is where the documented function says, in at most one experiment of the layer.
    let flags = ["company-holdout", "checkout-layer", "other-layer", "one", "two", "through"];
    let (mut exposed, mut held_out) = (0, 0);
    let users: Vec<String> = (0..USERS).map(|number| format!("user-{number}")).collect();
    for (user, found) in users.iter().zip(evaluate_all(&service, &flags, &users)) {
        let is_held_out = found["company-holdout"] == "held-out";
        let is_in = |flag: &str, slot: &str| {
            !is_held_out && found["checkout-layer"] == slot && !found[flag].is_null()
        };
        assert_eq!(!found["one"].is_null(), is_in("one", "slot-a"), "{user}: {found}");
        assert_eq!(!found["two"].is_null(), is_in("two", "slot-b"), "{user}: {found}");
        assert!(found["one"].is_null() || found["two"].is_null(), "{user}: {found}");
        if is_held_out {
            assert!(found["other-layer"].is_null() && found["through"].is_null(), "{user}: {found}");
        }
        held_out += usize::from(is_held_out);
        exposed += i64::from(!found["one"].is_null());
    }
    assert!((1..USERS / 5).contains(&held_out), "{held_out}");
    assert!((30..150).contains(&exposed), "{exposed}");
    let mut last = Value::Null;
    wait_until("the exposed users of one", TEST_TIMEOUT, || {
        let answer = fixture.ask(&service, "GET", "/one/results", &Value::Null);
        last = if answer.status == 200 { answer.json() } else { Value::Null };
        last.is_object() && total(&last, 0) == exposed
    });

    let vectors = documented();
    assert!(vectors.len() >= 8, "{vectors:?}");
    for [flag, user, variant] in vectors {
        assert_eq!(evaluate(&service, &[&flag], &user)[&flag], json!(variant), "{flag} for {user}");
    }

    // Once an experiment is stopped, its slot is free.
    assert_eq!(fixture.ask(&service, "POST", "/two/stop", &json!({})).status, 200);
    assert_eq!(fixture.ask(&service, "POST", "", &request("third", both)).status, 201);
}
