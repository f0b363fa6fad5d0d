//! `/api/v1/tokens`: callers with the scope `admin` create, list and revoke API tokens. A new token cannot allow more
//! than its creator's token, nor outlive it.

mod body;

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::auth::table::{self, PAGE_TOKENS_MAX, Revoked, TableError};
use crate::auth::{TokenCache, TokenId};
use crate::config::Scope;
use crate::database::audited::{self, Actor, Kind};
use crate::log_limit::limited;

use super::Problem;
use super::api::Api;
use super::caller::{Authorized, Caller, scope};
use super::input::{NoBody, Undecodable, last_parameter};
use super::openapi::calls::ManagementProblems;
use super::openapi::schema::{ProblemDetails, TokenChange, TokenList, TokenMade, TokenRequest};
use super::places::Pool;

const PAGE_TOKENS: u32 = 100;
const DATABASE_RETRY_SECONDS: u32 = 5;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/tokens", get(list).post(create))
        .route("/api/v1/tokens/{id}", delete(revoke))
        .route("/api/v1/tokens/{id}/changes", get(changes))
}

/// Creates a token.
///
/// The response is the only place that ever contains its secret. A token created with another token expires no later
/// than that one, and is revoked together with it.
#[utoipa::path(
    post,
    path = "/api/v1/tokens",
    operation_id = "createToken",
    tag = "tokens",
    request_body = TokenRequest,
    responses(
        (status = 201, description = "Created", body = TokenMade),
        (status = 404, description = "API tokens need a database, and none is configured", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "The limit of valid tokens is reached", body = ProblemDetails, content_type = "application/problem+json"),
        ManagementProblems
    )
)]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Admin>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let token_cache = token_cache(&api)?;
    let mut order = body::read(&input.body)?;
    if let Some((maker, expires_at)) = caller.token() {
        order = order.by(maker, expires_at);
    }
    caller.may_grant(Scope::Admin, &order.grant)?;
    let (actor, reason) = (caller.name(), super::manage::reason(&input)?);
    let author = Actor { actor: &actor, reason: reason.as_deref() };
    let (token, entered) = table::create(token_cache.database(), &order, author).await.map_err(problem)?;
    tracing::info!(id = %token.id, name = entered.name, by = caller.name(), "a token was created");
    // The token works on this instance at once. Other instances read the table when they first see the token.
    token_cache.look_anew().await;
    let mut made = entered.json();
    if let Some(members) = made.as_object_mut() {
        members.insert("token".to_owned(), Value::from(token.text().expose()));
    }
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(made)).into_response())
}

/// Lists tokens, newest first, without their secrets.
#[utoipa::path(
    get,
    path = "/api/v1/tokens",
    operation_id = "listTokens",
    tag = "tokens",
    params(
        ("limit" = Option<u32>, Query, description = "Page size; default 100", minimum = 1, maximum = 1000),
        ("after" = Option<String>, Query, description = "`next` of the previous page", pattern = "^[0-9a-f]{16}$")
    ),
    responses(
        (status = 200, description = "A page of tokens", body = TokenList),
        (status = 400, description = "A query parameter cannot be parsed", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "API tokens need a database, and none is configured", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 422, description = "The limit is not between 1 and 1000", body = ProblemDetails, content_type = "application/problem+json")
    )
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Admin>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let _place = api.places.take(Pool::Management)?;
    let token_cache = token_cache(&api)?;
    let (limit, after) = page(query.as_deref())?;
    let found = table::list(token_cache.database(), after, limit).await.map_err(problem)?;
    let full = u32::try_from(found.len()).is_ok_and(|count| count == limit);
    let next = found.last().filter(|_| full).map(|last| last.id.to_string());
    // Tokens that the caller could not create are left out.
    let seen = |token: &&table::Entered| caller.may_grant(Scope::Admin, &token.grant).is_ok();
    let tokens: Vec<Value> = found.iter().filter(seen).map(table::Entered::json).collect();
    Ok((uncached(), Json(json!({"tokens": tokens, "next": next}))).into_response())
}

/// Revokes a token and all tokens that were created with it. Every instance refuses them within two seconds.
#[utoipa::path(
    delete,
    path = "/api/v1/tokens/{id}",
    operation_id = "revokeToken",
    tag = "tokens",
    params(("id" = String, Path, description = "The token's `id`", pattern = "^[0-9a-f]{16}$")),
    responses(
        (status = 204, description = "Revoked by this or by an earlier request"),
        (status = 400, description = "The path cannot be parsed", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "There is no token with this id", body = ProblemDetails, content_type = "application/problem+json")
    )
)]
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Admin>,
    Path(id): Path<String>,
    NoBody(input): NoBody,
) -> Result<Response, Problem> {
    let _place = api.places.take(Pool::Management)?;
    let token_cache = token_cache(&api)?;
    let (id, found) = find(&caller, token_cache, &id).await?;
    let (actor, reason) = (caller.name(), super::manage::reason(&input)?);
    let author = Actor { actor: &actor, reason: reason.as_deref() };
    if table::revoke(token_cache.database(), id, author).await.map_err(problem)? == Revoked::Now {
        tracing::info!(%id, name = found.name, by = caller.name(), "a token was revoked");
    }
    token_cache.look_anew().await;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Lists who created and revoked a token, when and why.
#[utoipa::path(
    get,
    path = "/api/v1/tokens/{id}/changes",
    operation_id = "listTokenChanges",
    tag = "tokens",
    params(("id" = String, Path, description = "The token's `id`", pattern = "^[0-9a-f]{16}$")),
    responses(
        (status = 200, description = "Changes of the token, newest first", body = Vec<TokenChange>),
        (status = 400, description = "The path cannot be parsed", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "There is no token with this id", body = ProblemDetails, content_type = "application/problem+json")
    )
)]
pub(super) async fn changes(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Admin>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let _place = api.places.take(Pool::Management)?;
    let token_cache = token_cache(&api)?;
    let (id, _) = find(&caller, token_cache, &id).await?;
    let entries =
        audited::entries(token_cache.database(), Kind::Token, &id.to_string(), PAGE_TOKENS_MAX).await;
    let entries = entries.map_err(|error| problem(error.into()))?;
    Ok((uncached(), Json(entries)).into_response())
}

/// Finds a token. An error if it does not exist or is for environments outside the caller's.
async fn find(
    caller: &Caller,
    token_cache: &TokenCache,
    id: &str,
) -> Result<(TokenId, table::Entered), Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "there is no token with this id");
    let id = TokenId::parse(id).ok_or_else(unknown)?;
    let found = table::find(token_cache.database(), id).await.map_err(problem)?.ok_or_else(unknown)?;
    caller.may_grant(Scope::Admin, &found.grant)?;
    Ok((id, found))
}

fn token_cache(api: &Api) -> Result<&Arc<TokenCache>, Problem> {
    let off =
        || Problem::new(StatusCode::NOT_FOUND, "API tokens need a database, and DATABASE_URL is not set");
    api.authenticator.token_cache.as_ref().ok_or_else(off)
}

fn page(query: Option<&str>) -> Result<(u32, Option<TokenId>), Problem> {
    let refuse = |status, field, message: String| Err(Problem::of_field(status, field, message));
    let limit = match last_parameter(query, "limit").map(|text| text.parse::<u64>()) {
        None => PAGE_TOKENS,
        Some(Err(_)) => {
            return refuse(StatusCode::BAD_REQUEST, "limit", "expected a whole number".to_owned());
        }
        Some(Ok(limit)) => {
            match u32::try_from(limit).ok().filter(|limit| (1..=PAGE_TOKENS_MAX).contains(limit)) {
                Some(limit) => limit,
                None => {
                    let message = format!("expected 1 to {PAGE_TOKENS_MAX}, got {limit}");
                    return refuse(StatusCode::UNPROCESSABLE_ENTITY, "limit", message);
                }
            }
        }
    };
    let after = last_parameter(query, "after");
    match after.as_deref().map(TokenId::parse) {
        Some(None) => refuse(StatusCode::BAD_REQUEST, "after", "expected the id of a token".to_owned()),
        after => Ok((limit, after.flatten())),
    }
}

fn uncached() -> [(header::HeaderName, HeaderValue); 1] {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

/// Converts an error. Database errors are logged and not shown to the caller.
fn problem(error: TableError) -> Problem {
    match error {
        TableError::Full => Problem::new(StatusCode::CONFLICT, error),
        TableError::Database(error) => {
            limited!(warn, "tokens: {error}");
            let detail = "tokens cannot be read or changed, because the database request failed; retry later";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(DATABASE_RETRY_SECONDS)
        }
    }
}
