//! Responses that any route can give. They are added to every operation of the document, so that none is forgotten.

use utoipa::Modify;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::ObjectBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, HeaderBuilder, OpenApi, Ref, RefOr, ResponseBuilder, Schema, Type};

const SCHEME: &str = "token";
/// Content type and schema of an error.
const PROBLEM: (&str, &str) = ("application/problem+json", "ProblemDetails");
/// Content type and schema of an error of a route with the tag `openfeature`.
const OFREP_FAILURE: (&str, &str) = ("application/json", "OfrepFailure");
/// Tags of routes that need no token.
const OPEN_TAGS: [&str; 3] = ["health", "schemas", "unleash-open"];

pub(super) struct CommonResponses;

impl Modify for CommonResponses {
    fn modify(&self, document: &mut OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let bearer = bearer.description(Some("An API token, or the bootstrap token")).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(SCHEME, SecurityScheme::Http(bearer));
        for item in document.paths.paths.values_mut() {
            let operations = [
                &mut item.get,
                &mut item.post,
                &mut item.put,
                &mut item.delete,
                &mut item.patch,
                &mut item.head,
            ];
            operations.into_iter().flatten().for_each(complete);
        }
    }
}

fn complete(operation: &mut Operation) {
    add(operation, 504, "The request was not completed in time");
    add(operation, 421, "The host name of the request is not allowed");
    if operation.tags.iter().flatten().any(|tag| OPEN_TAGS.contains(&tag.as_str())) {
        // An explicit empty list, because tools report a missing `security` member as a mistake.
        operation.security.get_or_insert_default();
        let unreadable =
            || RefOr::T(ResponseBuilder::new().description("The request is not valid HTTP").build());
        operation.responses.responses.entry("400".to_owned()).or_insert_with(unreadable);
        return;
    }
    // The token is optional: without one, `FLAGSTREAM_AUTH__ANONYMOUS_SCOPES` decides.
    let token = SecurityRequirement::new(SCHEME, Vec::<String>::new());
    operation.security.get_or_insert_with(|| vec![token, SecurityRequirement::default()]);
    add(operation, 401, "The token is missing, unknown, revoked or expired");
    add(operation, 403, "The token does not have the scope, or does not permit the environment or the flag");
    add(operation, 429, "Too many requests per second");
    add(operation, 503, "Temporarily unavailable; retry after the time in `Retry-After`");
    if operation.request_body.is_some() {
        add(operation, 408, "The request body did not arrive in time");
    }
    // Path and headers are parsed before the route's own code runs.
    if operation.parameters.iter().flatten().next().is_some() {
        add(operation, 400, "A parameter cannot be parsed");
    }
    // OpenFeature's providers read `Retry-After` of every temporary error.
    for status in
        if error_form(operation) == OFREP_FAILURE { &["429", "503", "504"][..] } else { &["429", "503"] }
    {
        if let Some(RefOr::T(response)) = operation.responses.responses.get_mut(*status) {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).description(Some("Seconds"));
            let header = HeaderBuilder::new().schema(Some(Schema::Object(seconds.build()))).build();
            response.headers.entry("Retry-After".to_owned()).or_insert(header.into());
        }
    }
}

/// Content type and schema of the operation's errors.
fn error_form(operation: &Operation) -> (&'static str, &'static str) {
    let is_ofrep = operation.tags.iter().flatten().any(|tag| tag == "openfeature");
    if is_ofrep { OFREP_FAILURE } else { PROBLEM }
}

/// Adds a response with an error body. If the route already has a response for this status, only the body is added.
fn add(operation: &mut Operation, status: u16, description: &str) {
    let (content_type, schema) = error_form(operation);
    let new = || RefOr::T(ResponseBuilder::new().description(description).build());
    let response = operation.responses.responses.entry(status.to_string()).or_insert_with(new);
    if let RefOr::T(Response { content, .. }) = response {
        let error = || RefOr::T(Content::new(Some(Ref::from_schema_name(schema))));
        content.entry(content_type.to_owned()).or_insert_with(error);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    #[test]
    fn every_route_tells_what_all_routes_may_answer() {
        let document: Value = serde_json::from_slice(&super::super::TEXT).unwrap();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let is_ofrep = path.starts_with("/ofrep/");
                let (kind, schema) = if is_ofrep { super::OFREP_FAILURE } else { super::PROBLEM };
                let schema = format!("#/components/schemas/{schema}");
                let has = |status: &str| {
                    let content = operation["responses"][status]["content"].as_object().unwrap();
                    content[kind]["schema"]["$ref"] == schema && (!is_ofrep || content.len() == 1)
                };
                let open = super::OPEN_TAGS.iter().any(|tag| operation["tags"] == serde_json::json!([tag]));
                assert!(
                    has("504") && (open || ["401", "403", "429", "503"].into_iter().all(has)),
                    "{method} {path}"
                );
            }
        }
    }
}
