//! `/api/v1/attributes/{key}`: the attributes of a user, or of a key of another table.

use std::sync::Arc;

use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;

use super::doc::{AttributeRow, AttributeTableQuery, AttributesWritten};
use super::must_see_everything;
use crate::attributes::{Attributes, Placed, Table, USER_TABLE, check_key, check_row};
use crate::config::InputFormat;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, Caller, scope};
use crate::http::input::{Input, NoBody, Undecodable, refused};
use crate::http::manage::answer;
use crate::http::openapi::schema::ProblemDetails;
use crate::http::places::Pool;
use crate::log_limit::limited;

/// A row as it is shown.
#[derive(Debug, Serialize)]
struct ShownRow<'a> {
    table: &'a str,
    key: &'a str,
    attributes: &'a RawValue,
    partition: i32,
    offset: i64,
}

/// Position of a row that was written.
#[derive(Debug, Serialize)]
struct Written<'a> {
    table: &'a str,
    key: &'a str,
    partition: i32,
    offset: i64,
    in_force: bool,
}

/// Returns the attributes of a key, as this instance has them.
#[utoipa::path(
    get,
    path = "/api/v1/attributes/{key}",
    operation_id = "getAttributes",
    tag = "operations",
    params(("key" = String, Path, description = "The user id, or the key of another table", min_length = 1), AttributeTableQuery),
    responses(
        (status = 200, description = "The row, with the position of its record", body = AttributeRow),
        (status = 404, description = "There is no such row or table, or attributes are not enabled", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 422, description = "The key is too long", body = ProblemDetails, content_type = "application/problem+json")
    )
)]
pub(in crate::http) async fn one(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Audit>,
    UrlPath(key): UrlPath<String>,
    NoBody(input): NoBody,
) -> Result<Response, Problem> {
    let _place = api.places.take(Pool::Management)?;
    let (_, table) = target(&api, &caller, &input, &key)?;
    let row = table.get(&key).ok_or_else(|| {
        let detail = format!("table {} has no attributes of this key on this instance", table.name());
        Problem::new(StatusCode::NOT_FOUND, detail)
    })?;
    let attributes = serde_json::from_str(&row.json);
    let attributes = attributes.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let (partition, offset) = (row.partition, row.offset);
    answer(StatusCode::OK, &ShownRow { table: table.name(), key: &key, attributes, partition, offset })
}

/// Replaces the attributes of a key. The body is an object with a member for each attribute.
#[utoipa::path(
    put,
    path = "/api/v1/attributes/{key}",
    operation_id = "putAttributes",
    tag = "operations",
    params(("key" = String, Path, description = "The user id, or the key of another table", min_length = 1), AttributeTableQuery),
    request_body(content = Object, description = "A member for each attribute"),
    responses(
        (status = 200, description = "Written, and in force on this instance", body = AttributesWritten),
        (status = 202, description = "Written, but not yet in force on this instance", body = AttributesWritten),
        (status = 400, description = "Not a JSON object", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "There is no such table, or attributes are not enabled", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "The rows of the topic are in Avro", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 415, description = "Not application/json", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 422, description = "The key is too long", body = ProblemDetails, content_type = "application/problem+json")
    )
)]
pub(in crate::http) async fn put(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    UrlPath(key): UrlPath<String>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let (attributes, table) = target(&api, &caller, &input, &key)?;
    if api.config.formats.attributes == InputFormat::Avro {
        let detail = "the rows are in Avro (FLAGSTREAM_FORMAT__ATTRIBUTES), so that only their own producers write them";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let row = check_row(&input.body, attributes.max_row_bytes()).map_err(|refusal| refused(vec![refusal]))?;
    write(&api, &table, &key, Some(row)).await
}

/// Removes the attributes of a key.
#[utoipa::path(
    delete,
    path = "/api/v1/attributes/{key}",
    operation_id = "deleteAttributes",
    tag = "operations",
    params(("key" = String, Path, description = "The user id, or the key of another table", min_length = 1), AttributeTableQuery),
    responses(
        (status = 200, description = "Removed, also on this instance", body = AttributesWritten),
        (status = 202, description = "Removed, but not yet on this instance", body = AttributesWritten),
        (status = 404, description = "There is no such table, or attributes are not enabled", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 422, description = "The key is too long", body = ProblemDetails, content_type = "application/problem+json")
    )
)]
pub(in crate::http) async fn delete(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Delete>,
    UrlPath(key): UrlPath<String>,
    NoBody(input): NoBody,
) -> Result<Response, Problem> {
    let _place = api.places.take(Pool::Management)?;
    let (_, table) = target(&api, &caller, &input, &key)?;
    write(&api, &table, &key, None).await
}

/// The table that a request names, by default that of users. Fails if the caller may not see it, or the key is not valid.
fn target(
    api: &Api,
    caller: &Caller,
    input: &Input,
    key: &str,
) -> Result<(Arc<Attributes>, Arc<Table>), Problem> {
    must_see_everything(caller, "attributes")?;
    let Some(attributes) = &api.attributes else {
        let detail = "attributes are not enabled; set FLAGSTREAM_ATTRIBUTES__ENABLED=true";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let name = input.parameter("table");
    let name = name.as_deref().unwrap_or(USER_TABLE);
    let table = attributes.table(name).ok_or_else(|| {
        let known: Vec<_> = attributes.tables().iter().map(|table| table.name()).collect();
        let message = format!("expected one of the tables {}", known.join(", "));
        Problem::of_field(StatusCode::NOT_FOUND, "table", message)
    })?;
    check_key(Some(key.as_bytes())).map_err(|refusal| refused(vec![refusal]))?;
    Ok((Arc::clone(attributes), Arc::clone(table)))
}

async fn write(api: &Api, table: &Arc<Table>, key: &str, row: Option<&str>) -> Result<Response, Problem> {
    let placed = api.attribute_writer.write(table, key, row).await.map_err(|error| {
        limited!(warn, %error, "a row of attributes cannot be written");
        let detail = "the row was not acknowledged by Kafka; repeat the request";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
    })?;
    let Placed { partition, offset, is_applied: in_force } = placed;
    let status = if in_force { StatusCode::OK } else { StatusCode::ACCEPTED };
    answer(status, &Written { table: table.name(), key, partition, offset, in_force })
}
