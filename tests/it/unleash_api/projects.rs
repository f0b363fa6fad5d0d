//! Tokens for some of the projects, in all forms that Unleash gives them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::sdks::Sdks;
use super::{ENVIRONMENT, Fixture, ask, names};
use crate::harness::{Admin, Mood, Service, Stack, call, rollout};

const FEATURES: &str = "/api/client/features";
const FRONTEND: &str = "/api/frontend";

/// Projects `default`, `shop` and `pay`, with one flag each: `home`, `cart` and `card`.
struct Projects {
    shop: Admin,
    pay: Admin,
}

impl Projects {
    fn new(stack: &Stack, fixture: &Fixture) -> Self {
        let [shop, pay] = ["shop", "pay"].map(|project| fixture.admin.create_project(stack, project));
        fixture.flags(&["home"]);
        shop.create("cart", &rollout(&json!([])));
        pay.create("card", &rollout(&json!([])));
        Self { shop, pay }
    }
}

/// A token, and what it permits.
struct Token {
    text: String,
    kind: &'static str,
    projects: Vec<String>,
    flags: Vec<String>,
}

/// Tokens of one, several and all projects, of both kinds, in the forms with and without a selector.
fn tokens(stack: &Stack, fixture: &Fixture, projects: &Projects) -> Vec<Token> {
    let (shop, pay) = (projects.shop.project.as_str(), projects.pay.project.as_str());
    let table: [(&str, &[&str], &[&str], &str); 8] = [
        ("client", &[shop], &["cart"], ""),
        ("client", &[pay, shop], &["card", "cart"], ""),
        ("client", &["*"], &["card", "cart", "home"], ""),
        ("client", &["default"], &["home"], ""),
        ("frontend", &[pay, shop], &["card", "cart"], ""),
        ("client", &[shop], &["cart"], "v2_4f2a_"),
        ("client", &["default", pay], &["card", "home"], "v2_4f2b_"),
        ("frontend", &[pay], &["card"], "v2_4f2c_"),
    ];
    let made = table.map(|(kind, projects, flags, selector)| {
        let form = match projects {
            [one] => format!("{one}:{ENVIRONMENT}.{selector}"),
            _ => format!("[]:{ENVIRONMENT}.{selector}"),
        };
        let text = if selector.is_empty() {
            fixture.admin.create_token(kind, projects)
        } else {
            let text = format!("{form}{:032x}", rand::random::<u128>());
            fixture.admin.add_token(stack, &text, kind, projects);
            text
        };
        assert!(text.starts_with(&form), "{text}");
        let mut projects: Vec<_> = projects.iter().map(|project| (*project).to_owned()).collect();
        projects.sort();
        let flags = flags.iter().map(|flag| fixture.admin.name(flag)).collect();
        Token { text, kind, projects, flags }
    });
    made.into()
}

/// Sends tokens to `/edge/validate` below a URL; the answer has them in the order of their texts.
fn validated(url: &str, tokens: &[&str]) -> Value {
    let body = json!({"tokens": tokens}).to_string();
    let answer = call(
        "POST",
        &format!("{url}/edge/validate"),
        &[("content-type", "application/json")],
        body.as_bytes(),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut valid = answer.json()["tokens"].as_array().unwrap().clone();
    for token in &mut valid {
        let projects: BTreeSet<_> =
            token["projects"].as_array().unwrap().iter().map(|project| project.to_string()).collect();
        token["projects"] = json!(projects);
    }
    valid.sort_by_key(|token| token["token"].as_str().unwrap().to_owned());
    json!(valid)
}

/// Checks every route that answers from the projects of a token.
fn check(service: &Service, token: &Token, all: &[String]) {
    let is_backend = token.kind == "client";
    let (list, one) = if is_backend { (FEATURES, FEATURES) } else { (FRONTEND, "/api/frontend/features") };
    let text = Some(token.text.as_str());
    let listed = ask(service, list, text);
    assert_eq!(names(&listed), token.flags, "{}", token.text);
    for flag in all {
        let answer = ask(service, &format!("{one}/{flag}"), text);
        let expected = if token.flags.contains(flag) { 200 } else { 404 };
        assert_eq!(answer.status, expected, "{}: {flag}: {answer:?}", token.text);
    }
    if is_backend {
        assert_eq!(listed.json()["query"]["project"], json!(token.projects), "{}", token.text);
    }
}

#[test]
fn a_token_has_the_flags_of_its_projects_and_no_others() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let projects = Projects::new(stack, &fixture);
    let shop = projects.shop.project.as_str();
    let trusted = format!("{shop}:{ENVIRONMENT}.v2_4f2d_trusted");
    let pretrusted = format!("backend={trusted}");
    let fixture = fixture.set("FLAGSTREAM_UNLEASH_API__PRETRUSTED_TOKENS", &pretrusted);
    let mut service = fixture.group.start("one");
    let mut tokens = tokens(stack, &fixture, &projects);
    let texts: Vec<_> = tokens.iter().map(|token| token.text.clone()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    tokens.push(Token {
        text: trusted,
        kind: "client",
        projects: vec![shop.to_owned()],
        flags: vec![fixture.admin.name("cart")],
    });
    let all = ["card", "cart", "home"].map(|flag| fixture.admin.name(flag));
    for token in &tokens {
        check(&service, token, &all);
    }
    // A query selects among the projects of the token, and cannot add one.
    let both = Some(tokens[1].text.as_str());
    let of = |project: &str| names(&ask(&service, &format!("{FEATURES}?project={project}"), both));
    assert_eq!((of(shop), of("default")), (vec![all[1].clone()], Vec::new()));
    // What the texts say has no meaning of its own: Unleash knows none of these tokens.
    for made_up in ["v2_4f2a_made-up", "v2_", "made-up"] {
        for form in [shop, "[]", "*"] {
            let text = format!("{form}:{ENVIRONMENT}.{made_up}");
            assert_eq!(ask(&service, FEATURES, Some(&text)).status, 403, "{text}");
        }
    }
    assert_eq!(validated(&service.url, &texts), validated(&stack.unleash.url, &texts));

    // A restart while Unleash is unreachable changes no permission.
    fixture.proxy.set(Mood::Down);
    service.stop();
    service.spawn();
    service.wait_until_ready();
    for token in &tokens {
        check(&service, token, &all);
    }
}

#[test]
fn sdks_with_a_token_for_some_projects_see_changes_of_these_only() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let projects = Projects::new(stack, &fixture);
    let service = fixture.group.start("one");
    let (shop, pay) = (projects.shop.project.as_str(), projects.pay.project.as_str());
    let token = |kind: &str, projects: &[&str]| fixture.admin.create_token(kind, projects);
    let flags = ["card", "cart", "home"].map(|flag| fixture.admin.name(flag));
    let sdk = |name: &str, kind: &str, path: &str, projects: &[&str]| {
        json!({"name": name, "kind": kind, "url": format!("{}{path}", service.url),
            "token": token(kind.replace("backend", "client").as_str(), projects), "flags": flags,
            "streaming": name.contains("streaming").then_some(true)})
    };
    let both = [pay, shop];
    let mut sdks = Sdks::new();
    sdks.node(
        stack,
        &[
            sdk("shop-polling", "backend", "/api", &[shop]),
            sdk("shop-streaming", "backend", "/api", &[shop]),
            sdk("shop-browser", "frontend", FRONTEND, &[shop]),
            sdk("both-polling", "backend", "/api", &both),
            sdk("both-streaming", "backend", "/api", &both),
            sdk("both-browser", "frontend", FRONTEND, &both),
        ],
    );
    let of_shop = ["shop-polling", "shop-streaming", "shop-browser"];
    let of_both = ["both-polling", "both-streaming", "both-browser"];
    let state = |card: bool, cart: bool| json!({&flags[0]: card, &flags[1]: cart, &flags[2]: false});
    sdks.agree("only flags of one project", &of_shop, &state(false, true));
    sdks.agree("only flags of both projects", &of_both, &state(true, true));
    projects.pay.turn_off("card");
    sdks.agree("a change in one of both", &of_both, &state(false, true));
    projects.shop.turn_off("cart");
    sdks.agree("a change in the other", &of_both, &state(false, false));
    sdks.agree("a change in the only project", &of_shop, &state(false, false));

    // A flag that moves into a project of the token appears; one that moves out of it disappears.
    let home = |card: bool, home: bool| json!({&flags[0]: card, &flags[1]: false, &flags[2]: home});
    projects.shop.take_over(stack, "home");
    projects.pay.turn_on("card");
    sdks.agree("a flag that moved in", &of_shop, &home(false, true));
    sdks.agree("a flag that moved in, and a change", &of_both, &home(true, true));
    fixture.admin.take_over(stack, "home");
    projects.pay.turn_off("card");
    sdks.agree("a flag that moved out", &of_shop, &home(false, false));
    sdks.agree("a flag that moved out, and a change", &of_both, &home(false, false));
    let errors: Vec<_> = sdks.seen.iter().filter(|line| !line["error"].is_null()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}
