//! The API for Unleash's SDKs: the official SDKs with only their URL changed, and the real Unleash behind flagstream.

mod events;
mod impressions;
mod metrics;
mod oracle;
mod projects;
mod react;
mod routes;
mod sdks;
mod tokens;

use serde_json::{Value, json};

use crate::harness::{Admin, Answer, Group, HEALTH_TOKEN, Proxy, Service, Stack, call, rollout};

const ENVIRONMENT: &str = "development";

/// Unleash with flags of this test, and the settings of instances in front of it.
struct Fixture {
    group: Group,
    admin: Admin,
    proxy: Proxy,
    backend: String,
    frontend: String,
}

impl Fixture {
    fn new(stack: &Stack) -> Self {
        let group = Group::new(stack);
        let prefix = group.topics.prefix.clone();
        let (admin, proxy) = (Admin::new(stack, &prefix), Proxy::start(stack, &prefix));
        let group = group
            .set("UNLEASH_URL", &proxy.url)
            .set("UNLEASH_API_TOKEN", &stack.unleash.development_token)
            .set("UNLEASH_REFRESH_INTERVAL", "200ms")
            .set("UNLEASH_METRICS_INTERVAL", "1s")
            .set("FLAGSTREAM_UNLEASH_API__ENABLED", "true");
        let (backend, frontend) =
            (admin.create_token("client", &["*"]), admin.create_token("frontend", &["*"]));
        Self { group, admin, proxy, backend, frontend }
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.group = self.group.set(name, value);
        self
    }

    /// Makes flags that are on for everyone.
    fn flags(&self, names: &[&str]) {
        let flags: Vec<_> = names.iter().map(|name| ((*name).to_owned(), rollout(&json!([])))).collect();
        self.admin.create_all(&flags);
    }

    fn kill(&self, service: &Service, flag: &str) {
        let url = format!(
            "{}/api/v1/feature-flags/{}/kill?environment={ENVIRONMENT}",
            service.url,
            self.admin.name(flag)
        );
        let token = format!("Bearer {HEALTH_TOKEN}");
        let headers = [
            ("authorization", token.as_str()),
            ("content-type", "application/json"),
            ("x-change-reason", "test"),
        ];
        let killed = call("POST", &url, &headers, b"{}");
        assert_eq!(killed.status, 200, "{killed:?}");
    }
}

/// Calls a route with a token, or without one.
fn ask(service: &Service, path: &str, token: Option<&str>) -> Answer {
    ask_with(service, path, token, &[])
}

fn ask_with(service: &Service, path: &str, token: Option<&str>, headers: &[(&str, &str)]) -> Answer {
    let mut all: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
    all.extend(headers);
    call("GET", &format!("{}{path}", service.url), &all, b"")
}

/// Names of the flags in a list of definitions or results.
fn names(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    let list = body["features"].as_array().or_else(|| body["toggles"].as_array()).unwrap();
    list.iter().map(|flag: &Value| flag["name"].as_str().unwrap().to_owned()).collect()
}
