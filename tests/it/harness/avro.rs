//! Messages in Avro, as a service with the registry reads and writes them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};

use flagstream::message::avro::{Kind, Plan, Subject, Writer, header, split};

use super::http::{call, get, post};
use super::{Group, Stack};

impl Group {
    /// Sets every topic that can be in Avro to Avro, and requests to either format; the registry is at `url`.
    pub fn in_avro(self, url: &str) -> Self {
        let inputs = ["REQUESTS"].map(|kind| (kind, "auto"));
        let outputs = ["EVENTS", "UPDATES", "CHANGES", "CONVERSIONS", "REPLIES"].map(|kind| (kind, "avro"));
        let all = inputs.into_iter().chain(outputs);
        let group = self.set("SCHEMA_REGISTRY_URL", url);
        all.fold(group, |group, (kind, format)| group.set(&format!("FLAGSTREAM_FORMAT__{kind}"), format))
    }
}

/// Registers a schema; its id.
pub fn register(stack: &Stack, subject: &str, schema: &str) -> u32 {
    let url = format!("{}/subjects/{subject}/versions", stack.registry);
    let answer = post(&url, &json!({"schema": schema}));
    assert_eq!(answer.status, 200, "{answer:?}");
    u32::try_from(answer.json()["id"].as_u64().unwrap()).unwrap()
}

/// Registers a schema that every later one must be compatible with.
pub fn register_rule(stack: &Stack, subject: &str, schema: &str) {
    register(stack, subject, schema);
    let headers = [("content-type", "application/vnd.schemaregistry.v1+json")];
    let rule = format!("{}/config/{subject}", stack.registry);
    let set = call("PUT", &rule, &headers, br#"{"compatibility": "FULL"}"#);
    assert_eq!(set.status, 200, "{set:?}");
}

/// A message of this kind in Avro, from its JSON.
pub fn message(id: u32, kind: Kind, json: &str) -> Vec<u8> {
    let mut message = header(id).to_vec();
    kind.plan().from_json(json, &mut message).unwrap();
    message
}

/// The JSON that a record is, in whichever format it came.
pub fn to_json(payload: &[u8]) -> Cow<'_, [u8]> {
    let Some((id, message)) = split(payload) else { return payload.into() };
    let mut json = Vec::new();
    plan(id).to_json(message, &mut json, 16 << 20).unwrap();
    json.into()
}

/// Plan for messages of this schema id, which is looked up once.
fn plan(id: u32) -> Arc<Plan> {
    static PLANS: OnceLock<Mutex<HashMap<u32, Arc<Plan>>>> = OnceLock::new();
    let mut plans = PLANS.get_or_init(Mutex::default).lock().unwrap();
    let plan = plans.entry(id).or_insert_with(|| {
        let (_, answer) = get(&format!("{}/schemas/ids/{id}", Stack::get().registry)).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let schema = Writer::parse(answer["schema"].as_str().unwrap(), &[]).unwrap();
        Arc::new(Subject::ANY.resolve(&schema).unwrap())
    });
    Arc::clone(plan)
}
