//! Parameters, bodies and error responses of management routes, for the OpenAPI document.
#![allow(dead_code)]

mod bodies;
pub(super) mod experiments;
mod preview;
mod uses;

use utoipa::{IntoParams, IntoResponses};

use crate::http::openapi::schema::ProblemDetails;

pub use bodies::{ChangeList, FlagBody, FlagList, FlagUpdate, History, NewFlag, SyncAnswer};
pub use preview::{PreviewAsk, PreviewBody};
pub use uses::{
    CleanedBody, CleanupBody, KillBody, PreloadedBody, RestoreBody, RevertBody, StaleBody, TurnedBody,
    UsageBody,
};

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct FlagPath {
    /// Name of the flag, percent-encoded.
    #[param(min_length = 1)]
    name: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EnvironmentQuery {
    environment: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    environment: String,
    /// Deletes the local flag although a flag of Unleash with the same name is in force.
    shadowed: Option<bool>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only flags of this environment.
    environment: Option<String>,
    /// Only flags whose last evaluation is at least this many days ago, or that were never evaluated.
    #[param(minimum = 1, maximum = 3650)]
    unused_days: Option<u32>,
    /// Order of the list. With `last_evaluated_at`, flags that were never evaluated come first.
    #[param(inline, default = "name")]
    sort: Option<uses::SortName>,
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<u32>,
    #[param(maximum = 1000000, default = 0)]
    offset: Option<u32>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// Length of a bucket. Minutes are kept for 2 days, hours for 32 days, days for 400 days.
    #[param(default = "hour")]
    resolution: Option<uses::ResolutionName>,
    /// Begin of the period. Absent: 24 buckets before `to`.
    #[param(format = DateTime)]
    from: Option<String>,
    /// End of the period. Absent: now.
    #[param(format = DateTime)]
    to: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StaleQuery {
    /// Only flags of this environment.
    environment: Option<String>,
    /// Number of days for which a flag must have been on to be reported as always on.
    #[param(minimum = 1, maximum = 365, default = 30)]
    days: Option<u32>,
    /// Number of days without an evaluation after which a flag is reported as unused.
    #[param(minimum = 1, maximum = 3650, default = 90)]
    unused_days: Option<u32>,
    /// Leaves out flags that are younger than this.
    #[param(maximum = 365, default = 0)]
    min_age_days: Option<u32>,
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<u32>,
    #[param(maximum = 1000000, default = 0)]
    offset: Option<u32>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CleanupQuery {
    /// Only flags of this environment.
    environment: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LimitQuery {
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Position of the next page, taken from the header `Link` of the previous response.
    before: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct ChangeHeaders {
    /// Reason of the change, stored in the change log.
    #[param(rename = "X-Change-Reason", max_length = 1000)]
    reason: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct ExpectedHeaders {
    /// The change is made only if this is still the flag's `ETag`.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
    /// Reason of the change, stored in the change log.
    #[param(rename = "X-Change-Reason", max_length = 1000)]
    reason: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct ReasonHeader {
    /// Reason of the change. Takes precedence over the body's `reason`; one of them is required.
    #[param(rename = "X-Change-Reason", max_length = 1000)]
    reason: Option<String>,
}

#[derive(IntoResponses)]
pub enum AcceptedFlag {
    #[response(status = 202, description = "Committed, but not yet in force on this instance")]
    Accepted(FlagBody),
}

/// Error responses of routes that read flags.
#[derive(IntoResponses)]
pub enum ManageProblems {
    #[response(
        status = 400,
        description = "Not JSON, or a field or parameter has the wrong type",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(
        status = 404,
        description = "There is no flag of this name",
        content_type = "application/problem+json"
    )]
    Unknown(ProblemDetails),
    #[response(
        status = 422,
        description = "A field or parameter has an invalid value",
        content_type = "application/problem+json"
    )]
    NotMeaningful(ProblemDetails),
    #[response(
        status = 503,
        description = "The database is unreachable, or the flags are not loaded yet; retry later",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}

/// Error responses of routes that change flags.
#[derive(IntoResponses)]
pub enum WriteProblems {
    #[response(
        status = 400,
        description = "Not JSON, or a field or parameter has the wrong type",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(
        status = 404,
        description = "There is no flag of this name",
        content_type = "application/problem+json"
    )]
    Unknown(ProblemDetails),
    #[response(
        status = 409,
        description = "A flag of this name exists, or the flag is managed in another system",
        content_type = "application/problem+json"
    )]
    Elsewhere(ProblemDetails),
    #[response(
        status = 412,
        description = "The flag's revision does not match `If-Match`: it was changed",
        content_type = "application/problem+json"
    )]
    Stale(ProblemDetails),
    #[response(status = 413, description = "Too large", content_type = "application/problem+json")]
    TooLarge(ProblemDetails),
    #[response(status = 415, description = "Not application/json", content_type = "application/problem+json")]
    OtherType(ProblemDetails),
    #[response(
        status = 422,
        description = "A field or parameter has an invalid value",
        content_type = "application/problem+json"
    )]
    NotMeaningful(ProblemDetails),
    #[response(
        status = 503,
        description = "The database is unreachable, or the flags are not loaded yet; retry later",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}

/// Error responses of the sync route.
#[derive(IntoResponses)]
pub enum SyncProblems {
    #[response(
        status = 400,
        description = "Not JSON, or a field or parameter has the wrong type",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(
        status = 422,
        description = "A field or parameter has an invalid value",
        content_type = "application/problem+json"
    )]
    NotMeaningful(ProblemDetails),
    #[response(
        status = 502,
        description = "The source of flags is unreachable or returned an invalid response",
        content_type = "application/problem+json"
    )]
    NoSource(ProblemDetails),
    #[response(
        status = 503,
        description = "The database is unreachable, or the flags are not loaded yet; retry later",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}
