//! Body of a request that creates a token.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::auth::{NewToken, Restrictions};
use crate::http::Problem;
use crate::http::problem::FieldError;

const FIELDS: [&str; 8] =
    ["name", "scopes", "environments", "expires_in", "projects", "flag_prefixes", "owners", "kind"];

/// Parses and checks the body. Reports all errors: wrong types first (400), invalid values only if all types are right
/// (422).
pub(super) fn read(body: &[u8]) -> Result<NewToken, Problem> {
    let body: Value = serde_json::from_slice(body).map_err(|error| {
        Problem::of_field(StatusCode::BAD_REQUEST, "body", format!("expected JSON: {error}"))
    })?;
    let Value::Object(members) = &body else {
        return Err(Problem::of_field(StatusCode::BAD_REQUEST, "body", "expected an object"));
    };
    let mut errors = Vec::new();
    let name = text(members, "name", &mut errors);
    let expires_in = text(members, "expires_in", &mut errors);
    let kind = text(members, "kind", &mut errors);
    let scopes = texts(members, "scopes", &mut errors);
    let environments = texts(members, "environments", &mut errors);
    let projects = texts(members, "projects", &mut errors);
    let flag_prefixes = texts(members, "flag_prefixes", &mut errors);
    let owners = texts(members, "owners", &mut errors);
    if !errors.is_empty() {
        return Err(Problem::of_fields(StatusCode::BAD_REQUEST, errors));
    }
    let unknown = members.keys().filter(|key| !FIELDS.contains(&key.as_str()));
    errors.extend(
        unknown
            .map(|key| FieldError::new(key, format!("unknown field; expected only {}", FIELDS.join(", ")))),
    );
    let order = NewToken::check(name.unwrap_or_default(), &scopes, &environments, expires_in);
    let restrictions = Restrictions::of_names(&projects, &flag_prefixes, &owners);
    match NewToken::for_kind(NewToken::restricted(order, restrictions), kind) {
        Ok(order) if errors.is_empty() => Ok(order),
        Ok(_) => Err(Problem::of_fields(StatusCode::UNPROCESSABLE_ENTITY, errors)),
        Err(problems) => {
            errors
                .extend(problems.into_iter().map(|problem| FieldError::new(problem.field, problem.message)));
            Err(Problem::of_fields(StatusCode::UNPROCESSABLE_ENTITY, errors))
        }
    }
}

/// Reads a string. `null` counts as absent.
fn text<'m>(members: &'m Map<String, Value>, field: &str, errors: &mut Vec<FieldError>) -> Option<&'m str> {
    match members.get(field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(_) => {
            errors.push(FieldError::new(field, "expected a string"));
            None
        }
    }
}

fn texts<'m>(members: &'m Map<String, Value>, field: &str, errors: &mut Vec<FieldError>) -> Vec<&'m str> {
    let items = match members.get(field) {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => {
            errors.push(FieldError::new(field, "expected a list of strings"));
            return Vec::new();
        }
    };
    let mut texts = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item {
            Value::String(text) => texts.push(text.as_str()),
            _ => errors.push(FieldError::new(&format!("{field}[{index}]"), "expected a string")),
        }
    }
    texts
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fields(body: &str) -> (u16, Vec<String>) {
        let problem = read(body.as_bytes()).unwrap_err();
        assert!(problem.errors.iter().all(|error| error.message.contains("expected")), "{problem:?}");
        (problem.status.as_u16(), problem.errors.into_iter().map(|error| error.field).collect())
    }

    #[test]
    fn bad_bodies_are_refused_with_their_fields() {
        let order = read(br#"{"name": "n", "scopes": ["read"], "environments": ["*"], "expires_in": null}"#);
        assert_eq!(order.unwrap().expires_at, None);
        assert_eq!(fields("{"), (400, vec!["body".to_owned()]));
        assert_eq!(fields("[]"), (400, vec!["body".to_owned()]));
        let types = r#"{"name": 5, "scopes": ["read", 1], "environments": "*", "expires_in": 90}"#;
        let expected = ["name", "expires_in", "scopes[1]", "environments"];
        assert_eq!(fields(types), (400, expected.map(str::to_owned).to_vec()));
        assert_eq!(fields("{}"), (422, ["name", "scopes", "environments"].map(str::to_owned).to_vec()));
        let unknown = r#"{"name": "n", "scopes": ["read"], "environments": ["*"], "colour": 1}"#;
        assert_eq!(fields(unknown), (422, vec!["colour".to_owned()]));
    }
}
