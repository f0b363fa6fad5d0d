//! Flags written straight to the definitions topic, for tests that need no Unleash.

use rdkafka::message::{Header, OwnedHeaders};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Sender, Topics};

/// A flag in Unleash's client format.
#[derive(Debug, Clone)]
pub struct Flag {
    name: String,
    body: Value,
}

impl Flag {
    /// A flag that is on for every context.
    pub fn on(name: &str) -> Self {
        let body = json!({
            "name": name, "type": "release", "enabled": true, "stale": false, "impressionData": false,
            "project": "default", "strategies": [{"name": "default", "parameters": {}, "constraints": []}],
            "variants": [],
        });
        Self { name: name.to_owned(), body }
    }

    /// Off for everybody.
    pub fn off(name: &str) -> Self {
        let mut flag = Self::on(name);
        flag.body["enabled"] = json!(false);
        flag
    }

    /// Turns the flag on only for contexts that satisfy the constraint.
    pub fn where_in(mut self, context: &str, values: &[&str]) -> Self {
        self.body["strategies"][0]["constraints"]
            .as_array_mut()
            .unwrap()
            .push(json!({"contextName": context, "operator": "IN", "values": values}));
        self
    }

    /// The variant that everybody gets; payload as (type, value).
    pub fn variant(mut self, name: &str, payload: Option<(&str, &str)>) -> Self {
        let payload = payload.map(|(kind, value)| json!({"type": kind, "value": value}));
        let mut variant =
            json!({"name": name, "weight": 1000, "weightType": "variable", "stickiness": "default"});
        if let Some(payload) = payload {
            variant["payload"] = payload;
        }
        self.body["variants"] = json!([variant]);
        self
    }

    /// Sets the flag's project, by default `default`.
    pub fn project(mut self, project: &str) -> Self {
        self.body["project"] = json!(project);
        self
    }

    /// A flag of an experiment: variants with their weights.
    pub fn experiment(name: &str, variants: &[(&str, u32)]) -> Self {
        let mut flag = Self::on(name);
        flag.body["type"] = json!("experiment");
        let variant = |(name, weight): &(&str, u32)| {
            json!({"name": name, "weight": weight, "weightType": "variable", "stickiness": "default",
                "payload": {"type": "string", "value": name}})
        };
        flag.body["variants"] = variants.iter().map(variant).collect();
        flag
    }

    pub fn body(mut self, body: Value) -> Self {
        self.body = body;
        self
    }
}

/// Writes definitions as the feeder would.
#[derive(Debug)]
pub struct Flags<'t> {
    topics: &'t Topics,
    sender: Sender,
    version: u64,
}

impl<'t> Flags<'t> {
    pub fn new(topics: &'t Topics) -> Self {
        Self { topics, sender: Sender::new(&topics.kafka), version: 1_768_473_000_000 }
    }

    /// Increases the versions by this much, above those of other writers.
    pub fn later(mut self, by: u64) -> Self {
        self.version += by;
        self
    }

    /// Puts a flag in force; returns its version.
    pub fn set(&mut self, environment: &str, flag: Flag) -> u64 {
        self.version += 1;
        let checksum = hex::encode(Sha256::digest(flag.body.to_string()));
        let body = json!({
            "environment": environment, "flag_name": flag.name, "source": "unleash", "version": self.version,
            "checksum": checksum, "definition": flag.body,
        });
        let key = format!("{environment}/{}", flag.name);
        let text = body.to_string();
        self.sender.send(&self.topics.definitions, Some(0), Some(key.as_bytes()), text.as_bytes(), None);
        self.version
    }

    /// The flags that [`super::Load`] asks for.
    pub fn set_load(&mut self) {
        self.set("production", Flag::on("on"));
        self.set("production", Flag::off("off"));
        let theme = Flag::on("theme").where_in("subscription_tier", &["premium"]);
        self.set("production", theme.variant("dark", Some(("string", "dark"))));
    }

    /// Invalidates what was answered with earlier versions, as the feeder would.
    pub fn announce(&self, environment: &str, flag: &str, version: u64) {
        let now = chrono::Utc::now().to_rfc3339();
        let body = json!({
            "event_type": "FEATURE_FLAG_UPDATED", "flag_name": flag, "environment": environment, "version": version,
            "changed_at": now, "published_at": now, "actor": "test",
        });
        let key = format!("{environment}/{flag}");
        self.sender.send(
            &self.topics.updates,
            Some(0),
            Some(key.as_bytes()),
            body.to_string().as_bytes(),
            None,
        );
    }

    /// Sets a flag and announces it.
    pub fn change(&mut self, environment: &str, flag: Flag) -> u64 {
        let name = flag.name.clone();
        let version = self.set(environment, flag);
        self.announce(environment, &name, version);
        version
    }

    /// Takes a flag away; returns the version of that.
    pub fn remove(&mut self, environment: &str, flag: &str) -> u64 {
        self.version += 1;
        let key = format!("{environment}/{flag}");
        let version = self.version.to_string();
        let headers = OwnedHeaders::new().insert(Header { key: "version", value: Some(&version) });
        self.sender.tombstone(&self.topics.definitions, key.as_bytes(), headers);
        self.version
    }
}
