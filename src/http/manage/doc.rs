//! Bodies, parameters and problems of management calls, as the document describes them.
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
    /// The flag, percent-encoded.
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
    /// Deletes the local flag though Unleash's of the same name is in force.
    shadowed: Option<bool>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Flags of this one only.
    environment: Option<String>,
    /// Only flags whose last evaluation is so many days ago, or longer, and those that were never evaluated.
    #[param(minimum = 1, maximum = 3650)]
    unused_days: Option<u32>,
    /// In which order; by the last evaluation, those that were never evaluated come first.
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
    /// Minutes are kept for two days, hours for 32, days for 400.
    #[param(default = "hour")]
    resolution: Option<uses::ResolutionName>,
    /// Absent: 24 of them before `to`.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Absent: now.
    #[param(format = DateTime)]
    to: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StaleQuery {
    /// Flags of this one only.
    environment: Option<String>,
    /// How long a flag must have been on to be always on.
    #[param(minimum = 1, maximum = 365, default = 30)]
    days: Option<u32>,
    /// How long ago the last evaluation of an unused flag is, at least.
    #[param(minimum = 1, maximum = 3650, default = 90)]
    unused_days: Option<u32>,
    /// Younger flags are left out.
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
    /// Flags of this one only.
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
    /// Where the next part begins, as `Link` of an earlier answer has it.
    before: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct ChangeHeaders {
    /// Why; kept with the change.
    #[param(rename = "X-Change-Reason", max_length = 1000)]
    reason: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct ExpectedHeaders {
    /// The change is made only if the flag still has this `ETag`.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
    /// Why; kept with the change.
    #[param(rename = "X-Change-Reason", max_length = 1000)]
    reason: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct ReasonHeader {
    /// Why; goes before the body's `reason`, and one of them is required.
    #[param(rename = "X-Change-Reason", max_length = 1000)]
    reason: Option<String>,
}

#[derive(IntoResponses)]
pub enum AcceptedFlag {
    #[response(status = 202, description = "Made, and not known yet to be in force: it will be")]
    Accepted(FlagBody),
}

/// Why nothing is shown.
#[derive(IntoResponses)]
pub enum ManageProblems {
    #[response(
        status = 400,
        description = "Not JSON, or something of another type",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(
        status = 404,
        description = "There is no such flag",
        content_type = "application/problem+json"
    )]
    Unknown(ProblemDetails),
    #[response(
        status = 422,
        description = "Understood, but not meaningful",
        content_type = "application/problem+json"
    )]
    NotMeaningful(ProblemDetails),
    #[response(
        status = 503,
        description = "Not now: the database, or the flags in force, are away",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}

/// Why nothing is changed.
#[derive(IntoResponses)]
pub enum WriteProblems {
    #[response(
        status = 400,
        description = "Not JSON, or something of another type",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(
        status = 404,
        description = "There is no such flag",
        content_type = "application/problem+json"
    )]
    Unknown(ProblemDetails),
    #[response(
        status = 409,
        description = "There is one of this name already, or it is managed elsewhere",
        content_type = "application/problem+json"
    )]
    Elsewhere(ProblemDetails),
    #[response(
        status = 412,
        description = "The flag has changed since",
        content_type = "application/problem+json"
    )]
    Stale(ProblemDetails),
    #[response(status = 413, description = "Too large", content_type = "application/problem+json")]
    TooLarge(ProblemDetails),
    #[response(status = 415, description = "Not application/json", content_type = "application/problem+json")]
    OtherType(ProblemDetails),
    #[response(
        status = 422,
        description = "Understood, but not meaningful",
        content_type = "application/problem+json"
    )]
    NotMeaningful(ProblemDetails),
    #[response(
        status = 503,
        description = "Not now: the database, or the flags in force, are away",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}

/// Why nothing is synced.
#[derive(IntoResponses)]
pub enum SyncProblems {
    #[response(
        status = 400,
        description = "Not JSON, or something of another type",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(
        status = 422,
        description = "Understood, but not meaningful",
        content_type = "application/problem+json"
    )]
    NotMeaningful(ProblemDetails),
    #[response(
        status = 502,
        description = "The source of flags gives no answer to believe",
        content_type = "application/problem+json"
    )]
    NoSource(ProblemDetails),
    #[response(
        status = 503,
        description = "Not now: the database, or the flags in force, are away",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}
