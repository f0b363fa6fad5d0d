//! JSON Schema of local flags: served as a file, and included in the OpenAPI document.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::flag::local::SCHEMA;

use super::schema::ProblemDetails;

pub(super) const PATH: &str = "/schemas/local-flag.json";
const PARTS: &str = "#/$defs/";
/// Prefix of the schema's definitions in the OpenAPI document.
const COMPONENTS: &str = "#/components/schemas/LocalFlag.";

/// Returns the JSON Schema of local flags.
#[utoipa::path(
    get,
    path = "/schemas/local-flag.json",
    operation_id = "getLocalFlagSchema",
    tag = "schemas",
    responses(
        (status = 200, description = "A JSON Schema", content_type = "application/schema+json", body = Value),
        (
            status = 503,
            description = "Temporarily unavailable; retry after the time in `Retry-After`",
            content_type = "application/problem+json",
            body = ProblemDetails,
            headers(("Retry-After" = u32, description = "Seconds"))
        )
    )
)]
pub(in crate::http) async fn schema() -> Response {
    ([(CONTENT_TYPE, "application/schema+json")], SCHEMA).into_response()
}

/// Replaces the bodies that create and change a flag by the JSON Schema.
pub(super) fn describe(document: &mut Value) {
    let Ok(mut schema) = serde_json::from_str::<Value>(&SCHEMA.replace(PARTS, COMPONENTS)) else {
        return;
    };
    let Some(components) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(members) = schema.as_object_mut() else {
        return;
    };
    ["$schema", "$id"].into_iter().for_each(|name| drop(members.remove(name)));
    if let Some(Value::Object(parts)) = members.remove("$defs") {
        components.extend(parts.into_iter().map(|(name, part)| (format!("LocalFlag.{name}"), part)));
    }
    components.insert("NewFlag".to_owned(), schema.clone());
    if let Some(members) = schema.as_object_mut() {
        members.remove("required");
        let description = "Only the given fields are changed; `null` resets a field to its default.";
        members.insert("description".to_owned(), description.into());
    }
    components.insert("FlagUpdate".to_owned(), schema);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    #[test]
    fn the_document_says_what_a_flag_may_say() {
        let document: Value = serde_json::from_slice(&super::super::TEXT).unwrap();
        let schemas = &document["components"]["schemas"];
        let rules = schemas["NewFlag"]["properties"]["rules"]["items"]["$ref"].as_str().unwrap();
        let place = rules.strip_prefix('#').unwrap();
        assert!(document.pointer(place).unwrap()["properties"]["attributes"].is_object());
        assert!(schemas["NewFlag"]["required"].is_array() && schemas["FlagUpdate"]["required"].is_null());
    }
}
