//! Unleash's Admin API, as far as tests need it. Unleash is shared: every flag's name begins with its test's prefix.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::database::administer;
use super::http::{block_on, client};
use super::{Stack, TEST_TIMEOUT, wait_until};

const ENVIRONMENT: &str = "development";
/// Version of the client specification, equal to that in `feed/unleash.rs`.
const CLIENT_SPEC: &str = "6.1.0";

/// Makes and changes flags of one test, in environment `development`.
#[derive(Debug, Clone)]
pub struct Admin {
    url: String,
    /// The project in which flags are made and changed.
    pub project: String,
    token: String,
    client_token: String,
    prefix: String,
}

/// A flag with everything that it may have.
#[derive(Debug, Clone)]
pub struct FlagSpec {
    pub name: String,
    pub strategies: Vec<Value>,
    pub variants: Option<Value>,
    pub dependencies: Vec<Value>,
    pub on: bool,
}

impl Admin {
    pub fn new(stack: &Stack, prefix: &str) -> Self {
        Self {
            url: stack.unleash.url.clone(),
            project: "default".to_owned(),
            client_token: stack.unleash.development_token.clone(),
            token: stack.unleash.admin_token.clone(),
            prefix: prefix.to_owned(),
        }
    }

    /// Makes a project; the returned value makes and changes flags in it. The open-source Unleash serves many projects, but
    /// its API makes none.
    pub fn create_project(&self, stack: &Stack, project: &str) -> Self {
        let project = self.name(project);
        let statements = format!(
            "INSERT INTO projects (id, name) VALUES ('{project}', '{project}');
            INSERT INTO project_environments (project_id, environment_name) VALUES ('{project}', '{ENVIRONMENT}')"
        );
        administer(&database(stack), &statements);
        Self { project, ..self.clone() }
    }

    /// Moves a flag into the project. SDKs see it after the next change of any flag.
    pub fn take_over(&self, stack: &Stack, flag: &str) {
        let (name, project) = (self.name(flag), &self.project);
        administer(
            &database(stack),
            &format!("UPDATE features SET project = '{project}' WHERE name = '{name}'"),
        );
    }

    /// Adds a token with this text, which Unleash's API would choose itself.
    pub fn add_token(&self, stack: &Stack, secret: &str, kind: &str, projects: &[&str]) {
        let mut statements = format!(
            "INSERT INTO api_tokens (secret, username, token_name, type, environment)
            VALUES ('{secret}', 'test', 'test', '{kind}', '{ENVIRONMENT}');"
        );
        for project in projects {
            statements.push_str(&format!("INSERT INTO api_token_project VALUES ('{secret}', '{project}');"));
        }
        administer(&database(stack), &statements);
    }

    /// The full name of a flag (or segment, or project) of this test.
    pub fn name(&self, flag: &str) -> String {
        format!("{}-{flag}", self.prefix)
    }

    /// A flag that is on, with this strategy; returns when clients get it so.
    pub fn create(&self, flag: &str, strategy: &Value) {
        self.create_all(&[(flag.to_owned(), strategy.clone())]);
    }

    /// Creates many flags at once.
    pub fn create_all(&self, flags: &[(String, Value)]) {
        block_on(async {
            for some in flags.chunks(16) {
                let mut made = tokio::task::JoinSet::new();
                for (flag, strategy) in some {
                    let (admin, flag, strategy) = (self.clone(), flag.clone(), strategy.clone());
                    made.spawn(async move { admin.create_now(&flag, &strategy).await });
                }
                made.join_all().await;
            }
        });
        wait_until("Unleash serves the new flags", TEST_TIMEOUT, || {
            let served = self.served();
            let is_on =
                |name: &str| served.iter().any(|flag| flag["name"] == name && flag["enabled"] == true);
            flags.iter().all(|(flag, _)| is_on(&self.name(flag)))
        });
    }

    /// Features that Unleash serves to its clients now. The request is that of the feeder, because Unleash caches
    /// answers for a second, separately for each kind of client.
    pub fn served(&self) -> Vec<Value> {
        block_on(async {
            let url = format!("{}/api/client/features", self.url);
            let request = client().get(url).header("authorization", &self.client_token);
            let request = request.header("unleash-client-spec", CLIENT_SPEC);
            let response = request.send().await.unwrap().error_for_status().unwrap();
            let mut body: Value = response.json().await.unwrap();
            body["features"].as_array_mut().map(std::mem::take).unwrap()
        })
    }

    /// Makes one flag in all its parts at once: any of its strategies, variants and dependencies, on or off.
    pub fn make_all(&self, flags: &[FlagSpec]) {
        block_on(async {
            for some in flags.chunks(16) {
                let mut made = tokio::task::JoinSet::new();
                for flag in some {
                    let (admin, flag) = (self.clone(), flag.clone());
                    made.spawn(async move { admin.make_now(&flag).await });
                }
                made.join_all().await;
            }
        });
    }

    /// Makes strategies known that SDKs have and Unleash no longer ships; others may have done so before.
    pub fn define_strategies(&self, names: &[&str]) {
        block_on(async {
            for name in names {
                let body = json!({"name": name, "parameters": []});
                let (status, text) = self.ask(Method::POST, "/strategies", &body).await;
                assert!(status.is_success() || status == StatusCode::CONFLICT, "{name}: {status}: {text}");
            }
        });
    }

    async fn make_now(&self, flag: &FlagSpec) {
        let body = json!({"name": self.name(&flag.name), "type": "release"});
        self.call(Method::POST, &self.in_project(""), &body).await;
        for strategy in &flag.strategies {
            self.call(Method::POST, &self.in_environment(&flag.name, "/strategies"), strategy).await;
        }
        if let Some(variants) = &flag.variants {
            self.call(Method::PUT, &self.in_environment(&flag.name, "/variants"), variants).await;
        }
        for dependency in &flag.dependencies {
            let path = self.in_project(&format!("/{}/dependencies", self.name(&flag.name)));
            self.call(Method::POST, &path, dependency).await;
        }
        if flag.on {
            self.call(Method::POST, &self.in_environment(&flag.name, "/on"), &Value::Null).await;
        }
    }

    async fn create_now(&self, flag: &str, strategy: &Value) {
        let name = self.name(flag);
        let body = json!({"name": name, "type": "release"});
        self.call(Method::POST, &self.in_project(""), &body).await;
        self.call(Method::POST, &self.in_environment(flag, "/strategies"), strategy).await;
        self.call(Method::POST, &self.in_environment(flag, "/on"), &Value::Null).await;
    }

    pub fn turn_on(&self, flag: &str) {
        block_on(self.call(Method::POST, &self.in_environment(flag, "/on"), &Value::Null));
    }

    pub fn turn_off(&self, flag: &str) {
        block_on(self.call(Method::POST, &self.in_environment(flag, "/off"), &Value::Null));
    }

    /// Sets the variants of the flag in its environment.
    pub fn set_variants(&self, flag: &str, variants: &Value) {
        block_on(self.call(Method::PUT, &self.in_environment(flag, "/variants"), variants));
    }

    pub fn archive(&self, flag: &str) {
        let path = self.in_project(&format!("/{}", self.name(flag)));
        block_on(self.call(Method::DELETE, &path, &Value::Null));
    }

    /// Lets SDKs report every evaluation of the flag.
    pub fn record_impressions(&self, flag: &str) {
        let path = self.in_project(&format!("/{}", self.name(flag)));
        let body = json!([{"op": "replace", "path": "/impressionData", "value": true}]);
        block_on(self.call(Method::PATCH, &path, &body));
    }

    /// Makes a token for SDKs of a kind, `client` or `frontend`, in environment `development`.
    pub fn create_token(&self, kind: &str, projects: &[&str]) -> String {
        let body = json!({"tokenName": self.name(&format!("{kind}-{}", rand::random::<u32>())), "type": kind,
            "environment": ENVIRONMENT, "projects": projects});
        let made = block_on(self.call(Method::POST, "/api-tokens", &body));
        made["secret"].as_str().unwrap().to_owned()
    }

    pub fn delete_token(&self, secret: &str) {
        block_on(self.call(Method::DELETE, &format!("/api-tokens/{secret}"), &Value::Null));
    }

    /// Makes a segment; returns its id.
    pub fn create_segment(&self, segment: &str, constraints: &Value) -> u64 {
        let body = json!({"name": self.name(segment), "constraints": constraints});
        let made = block_on(self.call(Method::POST, "/segments", &body));
        made["id"].as_u64().unwrap()
    }

    pub fn change_segment(&self, id: u64, segment: &str, constraints: &Value) {
        let body = json!({"name": self.name(segment), "constraints": constraints});
        block_on(self.call(Method::PUT, &format!("/segments/{id}"), &body));
    }

    /// Reads anything below `/api/admin`; `None` where there is nothing.
    pub fn read(&self, path: &str) -> Option<Value> {
        block_on(async {
            let request =
                client().get(format!("{}/api/admin{path}", self.url)).header("authorization", &self.token);
            let response = request.send().await.unwrap();
            match response.status().as_u16() {
                404 => None,
                _ => Some(response.error_for_status().unwrap().json().await.unwrap()),
            }
        })
    }

    fn in_environment(&self, flag: &str, rest: &str) -> String {
        self.in_project(&format!("/{}/environments/{ENVIRONMENT}{rest}", self.name(flag)))
    }

    fn in_project(&self, rest: &str) -> String {
        format!("/projects/{}/features{rest}", self.project)
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, text) = self.ask(method.clone(), path, body).await;
        assert!(status.is_success(), "{method} {path}: {status}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> (StatusCode, String) {
        let mut request = client()
            .request(method.clone(), format!("{}/api/admin{path}", self.url))
            .header("authorization", &self.token);
        if !body.is_null() {
            request = request.json(body);
        } else if method == Method::POST {
            request = request.json(&json!({}));
        }
        let response = request.send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }
}

/// URL of Unleash's own database.
fn database(stack: &Stack) -> String {
    let (server, _) = stack.postgres.rsplit_once('/').unwrap();
    format!("{server}/unleash")
}

/// A strategy for everybody, or for those whom the constraints name.
pub fn rollout(constraints: &Value) -> Value {
    json!({
        "name": "flexibleRollout", "constraints": constraints, "segments": [],
        "parameters": {"rollout": "100", "stickiness": "default", "groupId": "it"},
    })
}
