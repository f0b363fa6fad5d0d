//! Unleash's evaluation context, from a query or a JSON body, as the JSON text that events repeat.
//!
//! The text is in Unleash's own form (`{"userId": …, "properties": {…}}`). Evaluations use the context that is read back
//! from it, so that a replay of the event evaluates the same context.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::message::request::{MAX_ID_BYTES, generated_session};

/// Maximum size of a context as JSON, in bytes. Every event of an answer repeats it.
pub const MAX_CONTEXT_BYTES: usize = 64 << 10;
const PROPERTIES: &str = "properties";
/// Fields of a context that are not properties, in the order in which they are written.
const FIELDS: [&str; 5] = ["userId", "sessionId", "appName", "remoteAddress", "currentTime"];

/// Reason why a context is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    #[error("the body is not a JSON object: {0}")]
    NotJson(String),
    #[error("{field} has {bytes} bytes; the limit is {MAX_ID_BYTES}")]
    LongId { field: &'static str, bytes: usize },
    #[error("the context has {0} bytes as JSON; the limit is {MAX_CONTEXT_BYTES}")]
    TooLarge(usize),
}

/// Context of a frontend SDK.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SdkContext {
    fields: [Option<String>; FIELDS.len()],
    properties: BTreeMap<String, String>,
}

impl SdkContext {
    /// Reads a context from a query string. Custom properties are `properties[name]=value`, or any other unknown name.
    pub fn of_query(query: &str) -> Self {
        let (mut context, mut unknown) = (Self::default(), Vec::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let nested = name.strip_prefix(PROPERTIES).and_then(|rest| rest.strip_prefix('['));
            match (nested.and_then(|rest| rest.strip_suffix(']')), field_index(&name)) {
                (Some(property), _) => {
                    drop(context.properties.insert(property.to_owned(), value.into_owned()))
                }
                (None, Some(index)) => context.set(index, value.into_owned()),
                (None, None) if name == "environment" || name == PROPERTIES => {}
                (None, None) => unknown.push((name.into_owned(), value.into_owned())),
            }
        }
        context.complete(unknown)
    }

    /// Reads a context from a body: `{"context": {…}}`, or the bare context. An empty body is an empty context.
    pub fn of_body(body: &[u8]) -> Result<Self, ContextError> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        let mut members: Map<String, Value> =
            serde_json::from_slice(body).map_err(|error| ContextError::NotJson(error.to_string()))?;
        match members.remove("context") {
            Some(Value::Object(context)) => Ok(Self::of_members(context)),
            Some(Value::Null) => Ok(Self::default()),
            Some(property) => {
                members.insert("context".to_owned(), property);
                Ok(Self::of_members(members))
            }
            None => Ok(Self::of_members(members)),
        }
    }

    /// Reads a context from the members of a JSON object.
    pub fn of_members(members: Map<String, Value>) -> Self {
        let (mut context, mut unknown) = (Self::default(), Vec::new());
        for (name, value) in members {
            if name == PROPERTIES {
                let Value::Object(properties) = value else { continue };
                let properties =
                    properties.into_iter().filter_map(|(name, value)| Some((name, text(value)?)));
                context.properties.extend(properties);
                continue;
            }
            let Some(value) = text(value) else { continue };
            match field_index(&name) {
                Some(index) => context.set(index, value),
                None if name == "environment" => {}
                None => unknown.push((name, value)),
            }
        }
        context.complete(unknown)
    }

    fn set(&mut self, index: usize, value: String) {
        if let Some(field) = self.fields.get_mut(index) {
            *field = Some(value).filter(|value| !value.is_empty());
        }
    }

    /// Moves fields that are among the properties to their place, and unknown members to the properties.
    fn complete(mut self, unknown: Vec<(String, String)>) -> Self {
        for (field, name) in self.fields.iter_mut().zip(FIELDS) {
            let nested = self.properties.remove(name).filter(|value| !value.is_empty());
            *field = field.take().or(nested);
        }
        self.properties.remove("environment");
        self.properties.extend(unknown);
        self
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(field_index(name)?)?.as_deref()
    }

    /// Adds the caller's address if the context has none.
    #[must_use]
    pub fn at(mut self, address: Option<std::net::IpAddr>) -> Self {
        if let (None, Some(address)) = (self.field("remoteAddress"), address) {
            self.fields[3] = Some(address.to_string());
        }
        self
    }

    /// Adds a generated session if the context has neither a user nor a session, so that all flags of an answer agree.
    #[must_use]
    pub fn identified(self) -> Self {
        self.identified_by(|| generated_session(rand::random()))
    }

    /// Like [`Self::identified`], with the session that `session` returns.
    #[must_use]
    pub fn identified_by(mut self, session: impl FnOnce() -> String) -> Self {
        if self.field("userId").is_none() && self.field("sessionId").is_none() {
            self.fields[1] = Some(session());
        }
        self
    }

    /// The context as JSON text; an error if it is too large.
    pub fn into_json(self) -> Result<String, ContextError> {
        for (field, name) in self.fields.iter().zip(["userId", "sessionId"]) {
            let bytes = field.as_ref().map_or(0, String::len);
            if bytes > MAX_ID_BYTES {
                return Err(ContextError::LongId { field: name, bytes });
            }
        }
        let mut members = Map::new();
        for (field, name) in self.fields.into_iter().zip(FIELDS) {
            members.extend(field.map(|value| (name.to_owned(), Value::String(value))));
        }
        if !self.properties.is_empty() {
            let properties = self.properties.into_iter().map(|(name, value)| (name, Value::String(value)));
            members.insert(PROPERTIES.to_owned(), Value::Object(properties.collect()));
        }
        let json = Value::Object(members).to_string();
        match json.len() {
            0..=MAX_CONTEXT_BYTES => Ok(json),
            bytes => Err(ContextError::TooLarge(bytes)),
        }
    }
}

fn field_index(name: &str) -> Option<usize> {
    FIELDS.iter().position(|field| *field == name)
}

/// Value of a context member as text; `None` for `null`. Lists and objects become compact JSON.
fn text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn json_of(context: SdkContext) -> Value {
        serde_json::from_str(&context.into_json().unwrap()).unwrap()
    }

    #[test]
    fn a_query_has_fields_nested_properties_and_unknown_names() {
        let query = "userId=u+1&sessionId=&appName=web&properties[companyId]=x&properties%5Bplan%5D=gold%26more\
                     &region=eu&environment=ignored&remoteAddress=10.0.0.1&properties[sessionId]=s";
        let expected = json!({"userId": "u 1", "sessionId": "s", "appName": "web", "remoteAddress": "10.0.0.1",
            "properties": {"companyId": "x", "plan": "gold&more", "region": "eu"}});
        assert_eq!(json_of(SdkContext::of_query(query)), expected);
        assert_eq!(json_of(SdkContext::of_query("")), json!({}));
    }

    #[test]
    fn a_body_is_the_context_or_holds_it() {
        let context = json!({"userId": 7, "beta": true, "none": null,
            "properties": {"userId": "other", "age": 5, "list": [1, 2], "environment": "x"}});
        let expected = json!({"userId": "7", "properties": {"age": "5", "beta": "true", "list": "[1,2]"}});
        let body = |value: Value| SdkContext::of_body(value.to_string().as_bytes()).unwrap();
        assert_eq!(json_of(body(context.clone())), expected);
        assert_eq!(json_of(body(json!({"context": context}))), expected);
        assert_eq!(json_of(body(json!({"properties": {"userId": "u"}}))), json!({"userId": "u"}));
        assert_eq!(json_of(body(json!({"context": "text"}))), json!({"properties": {"context": "text"}}));
        assert_eq!(json_of(SdkContext::of_body(b"").unwrap()), json!({}));
        for wrong in [&b"{"[..], b"[]", b"5", b"\xff"] {
            assert!(matches!(SdkContext::of_body(wrong), Err(ContextError::NotJson(_))));
        }
    }

    #[test]
    fn an_anonymous_caller_gets_one_session_and_its_own_address() {
        let address = Some("192.0.2.1".parse().unwrap());
        let anonymous = json_of(SdkContext::default().at(address).identified());
        assert!(anonymous["sessionId"].as_str().unwrap().starts_with("generated-"));
        assert_eq!(anonymous["remoteAddress"], "192.0.2.1");
        let known =
            json_of(SdkContext::of_query("sessionId=s&remoteAddress=10.9.9.9").at(address).identified());
        assert_eq!(known, json!({"sessionId": "s", "remoteAddress": "10.9.9.9"}));
    }

    #[test]
    fn a_context_is_limited() {
        let long = format!("userId={}", "u".repeat(MAX_ID_BYTES + 1));
        assert!(matches!(SdkContext::of_query(&long).into_json(), Err(ContextError::LongId { .. })));
        let large = format!("p={}", "x".repeat(MAX_CONTEXT_BYTES));
        assert!(matches!(SdkContext::of_query(&large).into_json(), Err(ContextError::TooLarge(_))));
    }

    #[test]
    fn what_is_evaluated_is_what_a_replay_reads() {
        let json = SdkContext::of_query("userId=u&properties[plan]=gold&currentTime=2026-01-01T00:00:00Z")
            .into_json()
            .unwrap();
        let context = crate::message::request::context(&json).unwrap();
        assert_eq!((context.user_id.as_deref(), context.property("plan")), (Some("u"), Some("gold")));
        assert_eq!(context.current_time.as_deref(), Some("2026-01-01T00:00:00Z"));
    }
}
