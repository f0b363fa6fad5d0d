//! Bodies of experiment routes, for the OpenAPI document.
#![allow(dead_code)]

use utoipa::{IntoParams, IntoResponses, ToSchema};

use crate::experiment::{Cap, Dimension, Goal, Kind, OnHarm, Role, StoredExperiment};
use crate::http::openapi::schema::ProblemDetails;

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ExperimentPath {
    /// Name of the experiment, percent-encoded.
    #[param(min_length = 1)]
    name: String,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExperiment {
    #[schema(min_length = 1, max_length = 255, example = "checkout-test")]
    name: String,
    environment: String,
    /// Name of the flag. Absent: the name of the experiment.
    flag_name: Option<String>,
    #[schema(max_length = 1000)]
    hypothesis: Option<String>,
    #[schema(max_length = 1000)]
    owner: Option<String>,
    /// Variant that the others are compared with. Absent: the flag's first variant.
    control: Option<String>,
    /// Variant of users who are excluded from the change. All other variants together are compared with it.
    holdout: Option<String>,
    #[schema(min_items = 1, max_items = 20)]
    metrics: Vec<NewMetric>,
    /// Hours after a user's exposure during which conversions count.
    #[schema(minimum = 1, maximum = 2160, default = 168)]
    window_hours: Option<u32>,
    #[schema(minimum = 0.5, maximum = 0.999, default = 0.95)]
    confidence: Option<f64>,
    #[schema(minimum = 0.5, maximum = 0.99, default = 0.8)]
    power: Option<f64>,
    /// Whether a user counts for a metric only when the metric's window is over.
    #[schema(default = false)]
    finished_windows: Option<bool>,
    /// Whether users who saw more than one variant are left out, also if they did in an earlier phase.
    #[schema(default = false)]
    exclude_crossed: Option<bool>,
    /// Number of users at which the intervals are narrowest. Absent: 10,000.
    #[schema(minimum = 100)]
    planned_users: Option<u64>,
    /// Action when a guardrail is harmed. Absent: an alarm only.
    on_harm: Option<OnHarm>,
    /// Attributes by whose values the results are broken down. The ten most frequent values are levels of their own.
    #[schema(max_items = 5)]
    dimensions: Option<Vec<Dimension>>,
    /// Name of a flag whose variants divide the users between experiments. The experiment's flag depends on variants of it
    /// that no other running experiment has.
    layer: Option<String>,
    /// Name of a flag with a variant for users who are in no experiment. The experiment's flag, or that of its layer,
    /// depends on its other variants.
    global_holdout: Option<String>,
    /// Start of the experiment. Absent: now. With a time in the past, audited evaluations since then are included.
    #[schema(format = DateTime)]
    started_at: Option<String>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMetric {
    #[schema(min_length = 1, max_length = 100, example = "purchase")]
    name: String,
    /// `conversion`: whether a user converted. `retention`: the same, after `delay_hours`. `mean`: the sum of a user's
    /// values. `count`: the number of conversions. `ratio`: all values divided by those of `denominator`. `quantile`: of
    /// the users' sums.
    #[schema(default = "conversion")]
    kind: Option<Kind>,
    #[schema(default = "increase")]
    goal: Option<Goal>,
    /// Absent: `primary` for the first metric if no other metric is primary, else `secondary`.
    role: Option<Role>,
    /// Smallest effect, relative to the control, that the experiment should detect.
    #[schema(minimum = 0.0001, maximum = 10, default = 0.05)]
    minimum_effect: Option<f64>,
    /// Name that conversions of this metric have. Absent: the metric's name.
    #[schema(min_length = 1, max_length = 100)]
    event: Option<String>,
    /// Name of the conversions whose values a ratio is divided by.
    #[schema(min_length = 1, max_length = 100)]
    denominator: Option<String>,
    /// Hours after the exposure from which on conversions count.
    #[schema(maximum = 2160, default = 0)]
    delay_hours: Option<u32>,
    /// Hours after the delay during which conversions count. Absent: `window_hours` of the experiment.
    #[schema(minimum = 1, maximum = 2160)]
    window_hours: Option<u32>,
    /// Largest value of one user. Only of a mean and a count.
    cap: Option<Cap>,
    /// Quantile that is compared: 0.5 for the median. Required for a quantile.
    #[schema(minimum = 0.01, maximum = 0.99)]
    quantile: Option<f64>,
}

#[derive(ToSchema)]
pub struct ExperimentList {
    experiments: Vec<StoredExperiment>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopBody {
    #[schema(max_length = 1000)]
    reason: Option<String>,
    /// The winning variant.
    #[schema(max_length = 1000)]
    winner: Option<String>,
}

/// One conversion, or a list of up to 1,000.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ConversionBody {
    One(OneConversion),
    Many(Vec<OneConversion>),
}

#[derive(ToSchema)]
pub struct OneConversion {
    #[schema(min_length = 1, max_length = 4096)]
    user_id: String,
    /// Name of one of the experiment's metrics.
    metric: String,
    /// Required for a metric of kind `mean`.
    value: Option<f64>,
    #[schema(format = DateTime)]
    occurred_at: String,
    /// Id that identifies repetitions of the same conversion. Absent: one is generated.
    #[schema(min_length = 1, max_length = 255)]
    event_id: Option<String>,
    /// Further properties, which are kept with the conversion.
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(ToSchema)]
pub struct AcceptedConversions {
    accepted: usize,
    event_ids: Vec<String>,
}

#[derive(IntoResponses)]
pub enum ExperimentProblems {
    #[response(
        status = 400,
        description = "Not JSON, or a field or parameter has the wrong type",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(
        status = 404,
        description = "There is no experiment of this name",
        content_type = "application/problem+json"
    )]
    Unknown(ProblemDetails),
    #[response(
        status = 409,
        description = "An experiment of this name exists, the experiment is stopped, or the limit of experiments is reached",
        content_type = "application/problem+json"
    )]
    Conflict(ProblemDetails),
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
        description = "The database or Kafka is unreachable, the flags are not loaded, or there are no results yet; retry later",
        content_type = "application/problem+json"
    )]
    Away(ProblemDetails),
}
