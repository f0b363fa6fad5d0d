//! Compares answers with the OpenAPI document strictly: a member of an answer that its schema does not name is an error.
//! The unit tests of the HTTP routes include this file too.

use serde_json::{Map, Value, json};

/// Differences of a JSON body from the document's response for this call. `path` as the document has it.
pub fn differences(
    document: &Value,
    (method, path): (&str, &str),
    status: u16,
    media: &str,
    body: &Value,
) -> Vec<String> {
    let response = &document["paths"][path][method.to_lowercase()]["responses"][status.to_string()];
    let Some(schema) = response["content"].get(media).map(|content| &content["schema"]) else {
        return vec![format!("{method} {path} {status} {media} is not in the document")];
    };
    let mut root = closed(schema);
    let components = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
    let components: Map<String, Value> =
        components.into_iter().map(|(name, component)| (name, open(&component))).collect();
    root["components"] = json!({"schemas": components});
    match jsonschema::validator_for(&root) {
        Ok(validator) => {
            validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect()
        }
        Err(error) => vec![format!("the schema of {method} {path} {status} is none: {error}")],
    }
}

/// The schema as it applies to a whole value: an object has no other members than those of the schema, of the schemas
/// that it refers to, and of its alternatives.
fn closed(schema: &Value) -> Value {
    let mut schema = open(schema);
    let describes_members = ["properties", "$ref", "allOf", "anyOf", "oneOf"];
    if let Some(keywords) = schema.as_object_mut()
        && describes_members.iter().any(|keyword| keywords.contains_key(*keyword))
    {
        keywords.insert("unevaluatedProperties".to_owned(), Value::Bool(false));
    }
    schema
}

/// The schema as a part of another one, which may add members: only the values of its own members are closed.
fn open(schema: &Value) -> Value {
    let Value::Object(keywords) = schema else { return schema.clone() };
    let each = |members: &Value, change: fn(&Value) -> Value| match members {
        Value::Object(members) => {
            members.iter().map(|(name, member)| (name.clone(), change(member))).collect()
        }
        Value::Array(items) => items.iter().map(change).collect(),
        other => other.clone(),
    };
    let keyword = |(keyword, value): (&String, &Value)| {
        let value = match keyword.as_str() {
            "properties" | "patternProperties" | "prefixItems" => each(value, closed),
            "items" | "additionalProperties" => closed(value),
            "allOf" | "anyOf" | "oneOf" => each(value, open),
            _ => value.clone(),
        };
        (keyword.clone(), value)
    };
    Value::Object(keywords.iter().map(keyword).collect())
}

#[test]
fn a_member_that_the_schema_does_not_name_is_found_wherever_it_is() {
    let schema = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let object = |members: Value| json!({"type": "object", "properties": members});
    let document = json!({
        "components": {"schemas": {
            "Base": object(json!({"a": {"type": "integer"}})),
            "Whole": {"allOf": [schema("Base"), object(json!({
                "base": schema("Base"),
                "list": {"type": "array", "items": schema("Base")},
                "map": {"type": "object", "additionalProperties": schema("Base")},
                "either": {"oneOf": [{"type": "null"}, schema("Base")]},
                "free": {"type": "object"},
                "any": {},
            }))]},
        }},
        "paths": {"/x": {"get": {"responses": {"200": {"content": {"application/json": {"schema": schema("Whole")}}}}}}},
    });
    let found =
        |body: Value| !differences(&document, ("GET", "/x"), 200, "application/json", &body).is_empty();
    let all = json!({"a": 1, "base": {"a": 1}, "list": [{"a": 1}], "map": {"x": {"a": 1}}, "either": {"a": 1},
        "free": {"b": 1}, "any": {"b": 1}});
    assert!(!found(all.clone()) && !found(json!({"either": null})) && !found(json!({})));
    let pointers = ["", "/base", "/list/0", "/map/x", "/either"];
    for pointer in pointers {
        let mut more = all.clone();
        more.pointer_mut(pointer).unwrap()["killed"] = json!(true);
        assert!(found(more), "{pointer}");
    }
    assert!(!differences(&document, ("GET", "/x"), 404, "application/json", &all).is_empty());
}
