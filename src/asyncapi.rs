//! The AsyncAPI document of all topics: channels, operations, messages, headers and keys.
//!
//! ```text
//!  the table of topics (kafka::topics::needs) ─┐
//!  schemas/messages.schema.json ───────────────┼─► document() ─► flagstream asyncapi, GET /asyncapi.json
//!  the Avro schemas ───────────────────────────┘
//! ```
//!
//! The document has the names of the configuration: topics, brokers and formats. docs/asyncapi.json is the one of the
//! default configuration.

mod messages;

use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::kafka::topics::{Need, needs};

use messages::{Direction, Message, TopicUse};

/// Version of the AsyncAPI specification.
const SPECIFICATION: &str = "3.1.0";
/// Version of the Kafka bindings.
const BINDING: &str = "0.5.0";
/// The JSON schemas of all messages.
const SCHEMAS: &str = include_str!("../schemas/messages.schema.json");

const DESCRIPTION: &str = "flagstream evaluates feature flags in Kafka. Services produce evaluation requests; \
    flagstream answers each with events, and publishes every change of a flag.\n\n\
    Messages are JSON. With a schema registry each topic can be in Avro (`x-avro-schema` of a message): records then have \
    Confluent's wire format. Results are written in transactions: consumers set `isolation.level=read_committed`.\n\n\
    `GET /openapi.json` describes the HTTP API.";

/// The document as JSON.
pub fn document(config: &Config) -> Value {
    let uses = messages::uses(config);
    let needs = needs(&config.topics);
    let need = |topic: &str| needs.iter().find(|need| need.name == topic);
    let channels: Map<_, _> =
        uses.iter().map(|used| (used.id.to_owned(), channel(used, need(&used.topic)))).collect();
    let with_replies = uses.iter().any(|used| used.id == messages::REPLIES);
    let operations: Map<_, _> = uses.iter().flat_map(|used| operations(used, with_replies)).collect();
    let messages: Map<_, _> =
        messages::ALL.iter().map(|message| (message.id.to_owned(), of(message))).collect();
    json!({
        "asyncapi": SPECIFICATION,
        "info": {
            "title": "flagstream",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": {"name": "MIT OR Apache-2.0"},
            "tags": [{"name": "feature-flags"}, {"name": "kafka"}],
        },
        "defaultContentType": "application/json",
        "servers": servers(config),
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas()},
    })
}

/// One server for each bootstrap broker.
fn servers(config: &Config) -> Value {
    let secure = config.kafka.client.get("security.protocol");
    let secure = secure.is_some_and(|protocol| protocol.expose().to_ascii_uppercase().contains("SSL"));
    let protocol = if secure { "kafka-secure" } else { "kafka" };
    let brokers =
        config.kafka.bootstrap_servers.split(',').map(str::trim).filter(|broker| !broker.is_empty());
    let servers: Map<_, _> = brokers
        .zip(1..)
        .map(|(host, number)| {
            let server = json!({
                "host": host,
                "protocol": protocol,
                "description": "Broker of KAFKA_BOOTSTRAP_SERVERS",
                "bindings": {"kafka": {"bindingVersion": BINDING}},
            });
            (format!("broker{number}"), server)
        })
        .collect();
    Value::Object(servers)
}

fn channel(used: &TopicUse, need: Option<&Need>) -> Value {
    let messages: Map<_, _> = used
        .messages
        .iter()
        .map(|message| ((*message).to_owned(), json!({"$ref": format!("#/components/messages/{message}")})))
        .collect();
    let mut kafka = json!({"topic": used.topic, "bindingVersion": BINDING});
    if let Some(need) = need {
        kafka["partitions"] = need.partitions.into();
        if let Some(replicas) = need.replication {
            kafka["replicas"] = replicas.into();
        }
        kafka["topicConfiguration"] = topic_configuration(need);
    }
    json!({
        "address": used.topic,
        "title": used.title,
        "description": used.description,
        "messages": messages,
        "bindings": {"kafka": kafka},
    })
}

/// The settings of the topic, in the types of the binding.
fn topic_configuration(need: &Need) -> Value {
    let settings = need.config.iter().filter_map(|(name, value)| {
        let value = match *name {
            "cleanup.policy" => json!([value]),
            "retention.ms" | "max.message.bytes" => json!(value.parse::<i64>().ok()?),
            // The binding has no member for other settings.
            _ => return None,
        };
        Some(((*name).to_owned(), value))
    });
    Value::Object(settings.collect())
}

/// The operations of flagstream on a topic, and of its callers.
fn operations(used: &TopicUse, with_replies: bool) -> Vec<(String, Value)> {
    let messages: Vec<_> = used
        .messages
        .iter()
        .map(|message| json!({"$ref": format!("#/channels/{}/messages/{message}", used.id)}))
        .collect();
    let operation = |direction: &Direction| {
        let (action, summary) = match direction {
            Direction::Reads(summary) => ("receive", summary),
            Direction::Writes(summary) => ("send", summary),
        };
        let mut id = String::from(action);
        let mut letters = used.id.chars();
        id.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        id.extend(letters);
        let mut operation = json!({
            "action": action,
            "channel": {"$ref": format!("#/channels/{}", used.id)},
            "summary": summary,
            "messages": messages,
            "bindings": {"kafka": {"bindingVersion": BINDING}},
        });
        if used.id == messages::REQUESTS && with_replies {
            operation["reply"] = json!({
                "address": {"location": "$message.header#/reply-to", "description": "A topic with an allowed prefix"},
                "channel": {"$ref": format!("#/channels/{}", messages::REPLIES)},
            });
        }
        (id, operation)
    };
    used.directions.iter().map(operation).collect()
}

fn of(message: &Message) -> Value {
    let headers: Map<_, _> = message
        .headers
        .iter()
        .map(|(name, text)| ((*name).to_owned(), json!({"type": "string", "description": text})))
        .collect();
    let mut value = json!({
        "name": message.name,
        "title": message.title,
        "contentType": message.content_type,
        "payload": {"$ref": format!("#/components/schemas/{}", message.schema)},
        "bindings": {"kafka": {"key": {"type": "string", "description": message.key}, "bindingVersion": BINDING}},
    });
    if !headers.is_empty() {
        value["headers"] = json!({"type": "object", "properties": headers});
    }
    if let Some(kind) = message.avro {
        // The schemas of this build are valid JSON.
        value["x-avro-schema"] = serde_json::from_str(kind.text()).unwrap_or_default();
    }
    value
}

/// The schemas, with references that are valid in the document.
fn schemas() -> Value {
    let text = SCHEMAS.replace("#/definitions/", "#/components/schemas/");
    // The schemas of this build are valid JSON.
    let mut document: Value = serde_json::from_str(&text).unwrap_or_default();
    let mut schemas = document["definitions"].take();
    if let Some(schemas) = schemas.as_object_mut() {
        // A value in Redis is no message.
        schemas.remove("redisValue");
    }
    schemas
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
