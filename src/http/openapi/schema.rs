//! The bodies of the routes, as the document describes them.
//!
//! Bodies are read and written without these types, which would copy every text; the tests check answers against
//! the document.
#![allow(dead_code)]

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The type that is asked for.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ValueTypeName {
    Boolean,
    String,
    Integer,
    Float,
    Number,
    Object,
}

/// One flag for one user.
#[derive(ToSchema)]
pub struct EvaluateRequest {
    #[schema(min_length = 1, max_length = 255, example = "new-ui-enabled")]
    flag_name: String,
    /// The targeting key; a number or a boolean is taken as its text.
    #[schema(example = "user-123")]
    user_id: Option<String>,
    session_id: Option<String>,
    #[schema(example = json!({"region": "us-west"}))]
    context: Option<Map<String, Value>>,
    /// Answered where there is no value; its type is the type asked for.
    #[schema(example = false)]
    default_value: Option<Value>,
    value_type: Option<ValueTypeName>,
    /// Else the query's, else the default one.
    #[schema(example = "development")]
    environment: Option<String>,
    /// The answer waits, for a short while, until this version is in force.
    min_version: Option<u64>,
}

/// Many flags for one user or for many contexts.
#[derive(ToSchema)]
pub struct BulkRequest {
    /// Absent: all flags of the environment.
    #[schema(min_items = 1, max_items = 1000)]
    flag_names: Option<Vec<String>>,
    user_id: Option<String>,
    session_id: Option<String>,
    context: Option<Map<String, Value>>,
    /// By flag.
    default_values: Option<BTreeMap<String, Value>>,
    /// By flag.
    value_types: Option<BTreeMap<String, ValueTypeName>>,
    /// Instead of `user_id`, `session_id` and `context`.
    #[schema(min_items = 1, max_items = 1000)]
    contexts: Option<Vec<ContextRequest>>,
    environment: Option<String>,
    min_version: Option<u64>,
}

/// One of many contexts.
#[derive(ToSchema)]
pub struct ContextRequest {
    user_id: Option<String>,
    session_id: Option<String>,
    context: Option<Map<String, Value>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReasonName {
    TargetingMatch,
    Default,
    /// Somebody killed the flag.
    Disabled,
    Error,
}

#[derive(ToSchema)]
#[schema(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCodeName {
    FlagNotFound,
    TypeMismatch,
    ProviderNotReady,
    General,
}

/// What a flag says.
#[derive(ToSchema)]
pub struct EvaluationResult {
    /// Of the type asked for.
    #[schema(required, nullable)]
    value: Value,
    /// Whether the flag is on for this context, whatever its type.
    enabled: bool,
    #[schema(required)]
    variant: Option<String>,
    reason: ReasonName,
    /// Only there, and true, where somebody killed the flag.
    #[schema(nullable = false)]
    killed: Option<bool>,
    #[schema(required)]
    error_code: Option<ErrorCodeName>,
    #[schema(required)]
    error_message: Option<String>,
    /// Of the definition that answered.
    #[schema(required)]
    flag_version: Option<u64>,
    /// Of the event in Kafka.
    #[schema(example = "01a1fcc8-865e-766d-a8aa-4bf9561be3e0")]
    event_id: String,
}

/// The answer for one flag.
#[derive(ToSchema)]
pub struct EvaluateAnswer {
    flag_name: String,
    #[schema(inline)]
    #[serde(flatten)]
    result: EvaluationResult,
    environment: String,
    /// The highest version that the snapshot holds.
    flags_version: u64,
    #[schema(format = DateTime)]
    evaluated_at: String,
}

/// The answer for many flags: `results`, or `contexts` where many were asked for.
#[derive(ToSchema)]
pub struct BulkAnswer {
    results: Option<BTreeMap<String, EvaluationResult>>,
    contexts: Option<Vec<ContextAnswer>>,
    environment: String,
    flags_version: u64,
    #[schema(format = DateTime)]
    evaluated_at: String,
}

/// The answers for one of many contexts, in the order asked.
#[derive(ToSchema)]
pub struct ContextAnswer {
    #[schema(required)]
    user_id: Option<String>,
    results: BTreeMap<String, EvaluationResult>,
}

/// An error (RFC 9457).
#[derive(ToSchema)]
pub struct ProblemDetails {
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    /// What is wrong with which field.
    errors: Option<Vec<FieldProblem>>,
}

#[derive(ToSchema)]
pub struct FieldProblem {
    field: String,
    message: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ScopeName {
    Evaluate,
    Read,
    Audit,
    Write,
    Delete,
    Admin,
}

/// A token that shall be made.
#[derive(ToSchema)]
pub struct TokenRequest {
    #[schema(min_length = 1, max_length = 100, example = "shop")]
    name: String,
    #[schema(min_items = 1)]
    scopes: Vec<ScopeName>,
    /// Names, or `*` alone for all.
    #[schema(min_items = 1, max_items = 100, example = json!(["production"]))]
    environments: Vec<String>,
    /// Absent: it does not expire.
    #[schema(example = "90d", pattern = "^[0-9]+(ms|s|m|h|d)?$")]
    expires_in: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum TokenState {
    Active,
    Revoked,
    Expired,
}

/// A token without its secret.
#[derive(ToSchema)]
pub struct TokenDetails {
    id: String,
    name: String,
    scopes: Vec<ScopeName>,
    environments: Vec<String>,
    state: TokenState,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(required, format = DateTime)]
    expires_at: Option<String>,
    #[schema(required, format = DateTime)]
    revoked_at: Option<String>,
    /// Noted once a minute.
    #[schema(required, format = DateTime)]
    last_used_at: Option<String>,
    /// The token with which it was made, and with which it ends.
    #[schema(required, pattern = "^[0-9a-f]{16}$")]
    made_by: Option<String>,
}

/// A new token.
#[derive(ToSchema)]
pub struct TokenMade {
    /// For the header `Authorization: Bearer …`; shown this once.
    token: String,
    #[schema(inline)]
    #[serde(flatten)]
    details: TokenDetails,
}

/// A change of a token.
#[derive(ToSchema)]
pub struct TokenChange {
    id: i64,
    /// `created` or `revoked`.
    action: String,
    actor: String,
    #[schema(required)]
    reason: Option<String>,
    /// What it allowed, and allows.
    #[schema(required)]
    before: Option<Map<String, Value>>,
    #[schema(required)]
    after: Option<Map<String, Value>>,
    #[schema(format = DateTime)]
    changed_at: String,
}

#[derive(ToSchema)]
pub struct TokenList {
    tokens: Vec<TokenDetails>,
    /// The `after` of the next page; null at the end.
    #[schema(required)]
    next: Option<String>,
}

/// A call of OpenFeature's protocol.
#[derive(ToSchema)]
pub struct OfrepRequest {
    /// `targetingKey` is the user.
    #[schema(example = json!({"targetingKey": "user-123", "region": "us-west"}))]
    context: Option<Map<String, Value>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OfrepReason {
    Static,
    TargetingMatch,
    Split,
    Disabled,
    Default,
    /// From Redis, while the flags are not loaded.
    Cached,
}

/// A flag's value; absent where the caller's own default is to be taken.
#[derive(ToSchema)]
pub struct OfrepSuccess {
    key: String,
    value: Option<Value>,
    reason: OfrepReason,
    variant: String,
    metadata: OfrepMetadata,
}

#[derive(ToSchema)]
pub struct OfrepMetadata {
    version: u64,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepFailure {
    key: Option<String>,
    #[schema(example = "FLAG_NOT_FOUND")]
    error_code: String,
    error_details: Option<String>,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum OfrepFlag {
    Success(OfrepSuccess),
    Failure(OfrepFailure),
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepAll {
    flags: Vec<OfrepFlag>,
    metadata: OfrepMetadata,
    event_streams: Vec<OfrepStream>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepStream {
    r#type: String,
    endpoint: OfrepEndpoint,
    inactivity_delay_sec: u32,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepEndpoint {
    request_uri: String,
}
