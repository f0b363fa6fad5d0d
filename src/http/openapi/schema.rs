//! Request and response bodies, for the OpenAPI document.
//!
//! The routes parse and write JSON without these types, which would copy every string. The tests check responses
//! against the document.
#![allow(dead_code)]

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Requested type of a value.
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

/// Evaluation of one flag for one user.
#[derive(ToSchema)]
pub struct EvaluateRequest {
    #[schema(min_length = 1, max_length = 255, example = "new-ui-enabled")]
    flag_name: String,
    /// The targeting key. A number or a boolean is converted to text.
    #[schema(example = "user-123")]
    user_id: Option<String>,
    session_id: Option<String>,
    #[schema(example = json!({"region": "us-west"}))]
    context: Option<Map<String, Value>>,
    /// Value to return if the flag has none. Without `value_type`, its JSON type is the requested type.
    #[schema(example = false)]
    default_value: Option<Value>,
    value_type: Option<ValueTypeName>,
    /// Environment; if absent, the one of the query or header, else the default environment.
    #[schema(example = "development")]
    environment: Option<String>,
    /// Waits up to two seconds until this flags version is in force.
    min_version: Option<u64>,
}

/// Evaluation of many flags for one user or for many contexts.
#[derive(ToSchema)]
pub struct BulkRequest {
    /// Flags to evaluate. Absent: all flags of the environment.
    #[schema(min_items = 1, max_items = 1000)]
    flag_names: Option<Vec<String>>,
    user_id: Option<String>,
    session_id: Option<String>,
    context: Option<Map<String, Value>>,
    /// Default values by flag name.
    default_values: Option<BTreeMap<String, Value>>,
    /// Requested types by flag name.
    value_types: Option<BTreeMap<String, ValueTypeName>>,
    /// Contexts to evaluate for, instead of `user_id`, `session_id` and `context`.
    #[schema(min_items = 1, max_items = 1000)]
    contexts: Option<Vec<ContextRequest>>,
    environment: Option<String>,
    min_version: Option<u64>,
}

/// Context of a request with several contexts.
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
    /// A kill switch turned the flag off.
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

/// Result for one flag.
#[derive(ToSchema)]
pub struct EvaluationResult {
    /// Value, of the requested type.
    #[schema(required, nullable)]
    value: Value,
    /// Whether the flag is on for this context, whatever its value type.
    enabled: bool,
    #[schema(required)]
    variant: Option<String>,
    reason: ReasonName,
    /// Present, and true, only if a kill switch turned the flag off.
    #[schema(nullable = false)]
    killed: Option<bool>,
    #[schema(required)]
    error_code: Option<ErrorCodeName>,
    #[schema(required)]
    error_message: Option<String>,
    /// Version of the definition that was evaluated.
    #[schema(required)]
    flag_version: Option<u64>,
    /// Id of the event in Kafka.
    #[schema(example = "01a1fcc8-865e-766d-a8aa-4bf9561be3e0")]
    event_id: String,
}

/// Response for one flag.
#[derive(ToSchema)]
pub struct EvaluateAnswer {
    flag_name: String,
    #[schema(inline)]
    #[serde(flatten)]
    result: EvaluationResult,
    environment: String,
    /// Highest version in the snapshot that was evaluated.
    flags_version: u64,
    #[schema(format = DateTime)]
    evaluated_at: String,
    /// Present with `explain=true`; null for an unknown flag.
    explanation: Option<ExplanationBody>,
}

/// Explanation of the state of a flag for a context.
#[derive(ToSchema)]
pub struct ExplanationBody {
    /// One sentence.
    summary: String,
    enabled: bool,
    decision: DecisionName,
    /// Parent flag that does not have the required state.
    #[schema(required)]
    parent: Option<UnmetParentBody>,
    /// Strategies in the order in which they were tried, up to the one that matched.
    strategies: Vec<TriedStrategyBody>,
    /// Whether the definition is too large to be explained completely.
    truncated: bool,
    #[schema(required)]
    variant: Option<ChosenVariantBody>,
    /// Whether a part of the result was drawn at random.
    random: bool,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum DecisionName {
    Killed,
    Unusable,
    SwitchedOff,
    Parent,
    Everyone,
    Strategy,
    NoStrategyMatched,
}

#[derive(ToSchema)]
pub struct UnmetParentBody {
    flag: String,
    required_enabled: bool,
    required_variants: Vec<String>,
}

#[derive(ToSchema)]
pub struct TriedStrategyBody {
    index: usize,
    name: String,
    matched: bool,
    /// Whether the flag is off for contexts that the strategy matches.
    off: bool,
    /// Reason why the strategy did not match.
    #[schema(required)]
    failure: Option<FailureBody>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum FailureKind {
    Constraint,
    Rollout,
    NotListed,
    Anonymous,
    MissingSegment,
    Unsupported,
    NotExamined,
}

/// Part of a strategy that does not hold. Which members are present depends on `kind`.
#[derive(ToSchema)]
pub struct FailureBody {
    kind: FailureKind,
    /// Position among the strategy's constraints.
    #[schema(nullable = false)]
    index: Option<usize>,
    #[schema(nullable = false)]
    context_name: Option<String>,
    #[schema(nullable = false)]
    operator: Option<String>,
    #[schema(nullable = false)]
    values: Option<Vec<String>>,
    /// Number of values that are not listed.
    #[schema(nullable = false)]
    more_values: Option<usize>,
    #[schema(nullable = false)]
    inverted: Option<bool>,
    /// Value in the context; null if there is none.
    actual: Option<String>,
    #[schema(nullable = false)]
    percentage: Option<String>,
    #[schema(nullable = false)]
    stickiness: Option<String>,
    /// Number from 1 to 100 that the context was assigned to; null if it was drawn at random.
    bucket: Option<u32>,
    #[schema(nullable = false)]
    parameter: Option<String>,
}

#[derive(ToSchema)]
pub struct ChosenVariantBody {
    name: String,
    /// Whether it is a variant of the strategy that matched, and not of the flag.
    of_strategy: bool,
}

/// Response for many flags: `results`, or `contexts` if the request contained several.
#[derive(ToSchema)]
pub struct BulkAnswer {
    results: Option<BTreeMap<String, EvaluationResult>>,
    contexts: Option<Vec<ContextAnswer>>,
    environment: String,
    flags_version: u64,
    #[schema(format = DateTime)]
    evaluated_at: String,
}

/// Results for one of several contexts, in the order of the request.
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
    /// One entry per invalid field.
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
    Track,
    Write,
    Delete,
    Admin,
}

/// Token to create.
#[derive(ToSchema)]
pub struct TokenRequest {
    #[schema(min_length = 1, max_length = 100, example = "shop")]
    name: String,
    #[schema(min_items = 1)]
    scopes: Vec<ScopeName>,
    /// Names of environments, or only `*` for all.
    #[schema(min_items = 1, max_items = 100, example = json!(["production"]))]
    environments: Vec<String>,
    /// Projects whose flags the token allows. Absent or empty: all flags. Local flags have no project.
    #[schema(max_items = 100, example = json!(["checkout"]))]
    projects: Option<Vec<String>>,
    /// Prefixes of the names of flags that the token allows. Absent or empty: all flags.
    #[schema(max_items = 100, example = json!(["checkout-"]))]
    flag_prefixes: Option<Vec<String>>,
    /// Owners whose local flags the token allows. Absent or empty: all flags. Other flags have no owner.
    #[schema(max_items = 100, example = json!(["team-checkout"]))]
    owners: Option<Vec<String>>,
    /// SDKs of Unleash that the token is for. Absent: both kinds.
    kind: Option<SdkKind>,
    /// Lifetime. Absent: the token does not expire.
    #[schema(example = "90d", pattern = "^[0-9]+(ms|s|m|h|d)?$")]
    expires_in: Option<String>,
}

/// Kind of Unleash's SDKs.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum SdkKind {
    Backend,
    Frontend,
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
    /// Empty: not restricted by project.
    projects: Vec<String>,
    /// Empty: not restricted by name.
    flag_prefixes: Vec<String>,
    /// Empty: not restricted by owner.
    owners: Vec<String>,
    #[schema(required)]
    kind: Option<SdkKind>,
    state: TokenState,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(required, format = DateTime)]
    expires_at: Option<String>,
    #[schema(required, format = DateTime)]
    revoked_at: Option<String>,
    /// Updated once a minute.
    #[schema(required, format = DateTime)]
    last_used_at: Option<String>,
    /// Token with which this one was created. Revoking that one also revokes this one.
    #[schema(required, pattern = "^[0-9a-f]{16}$")]
    made_by: Option<String>,
}

/// A new token.
#[derive(ToSchema)]
pub struct TokenMade {
    /// Value for the header `Authorization: Bearer …`. Shown only once.
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
    /// Permissions before the change.
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
    /// Value of `after` for the next page; null on the last page.
    #[schema(required)]
    next: Option<String>,
}
