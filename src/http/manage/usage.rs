//! Usage of flags: `/{name}/usage` and `/stale`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{SubsecRound, TimeDelta, Utc};

use super::doc::{EnvironmentQuery, FlagPath, ManageProblems, StaleBody, StaleQuery, UsageBody, UsageQuery};
use super::params::{self, FlagName, Params};
use super::{LIST_DEFAULT, LIST_MAX, answer, problem};
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::manage::{Period, Resolution, StaleFilter};

const MEANINGLESS: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
/// Maximum buckets of one response.
const BUCKETS_MAX: i64 = 1_500;
/// Number of buckets if the request does not specify a period.
const BUCKETS_DEFAULT: i64 = 24;
const DAYS_DEFAULT: u32 = 30;
/// Largest `days` and `min_age_days`.
const DAYS_MAX: u32 = 365;
/// Days without an evaluation after which a flag counts as unused.
const UNUSED_DAYS_DEFAULT: u32 = 90;
/// Largest `unused_days`.
pub(super) const UNUSED_DAYS_MAX: u32 = 3_650;

/// Returns the usage of a flag over time: evaluations, how many found it on, variants, errors, and evaluation time.
#[utoipa::path(
    get,
    path = "/api/v1/feature-flags/{name}/usage",
    operation_id = "getFlagUsage",
    tag = "management",
    params(FlagPath, EnvironmentQuery, UsageQuery),
    responses(
        (status = 200, description = "Usage as recorded by the audit sink", body = UsageBody),
        ManageProblems
    )
)]
pub(in crate::http) async fn usage(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    name: FlagName,
    ask: Params,
) -> Result<Response, Problem> {
    let environment = params::allowed(&caller, ask.parameter("environment"))?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let usage = api.manager.usage(&environment, &name, period(&ask)?).await.map_err(problem)?;
    answer(StatusCode::OK, &usage)
}

/// Lists flags that need attention: expired, marked stale by Unleash, never evaluated, unused, always on, or without an
/// owner.
#[utoipa::path(
    get,
    path = "/api/v1/feature-flags/stale",
    operation_id = "listStaleFlags",
    tag = "management",
    params(StaleQuery),
    responses(
        (status = 200, description = "A page of flags by name, with the reasons why each needs attention", body = StaleBody),
        ManageProblems
    )
)]
pub(in crate::http) async fn stale(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    ask: Params,
) -> Result<Response, Problem> {
    let environment = ask.any_environment()?;
    let environments = params::allowed_among(&caller, environment.as_deref())?;
    let (limit, offset) = ask.page(LIST_DEFAULT, LIST_MAX)?;
    let environments = environments.as_deref();
    let days = ask.whole("days", DAYS_DEFAULT, 1, DAYS_MAX)?;
    let min_age_days = ask.whole("min_age_days", 0, 0, DAYS_MAX)?;
    let unused_days = ask.whole("unused_days", UNUSED_DAYS_DEFAULT, 1, UNUSED_DAYS_MAX)?;
    let asked = StaleFilter {
        environments,
        within: caller.restrictions(),
        days,
        unused_days,
        min_age_days,
        limit,
        offset,
    };
    let page = api.manager.stale(asked).await.map_err(problem)?;
    answer(StatusCode::OK, &page)
}

fn period(ask: &Params) -> Result<Period, Problem> {
    let resolution = match ask.parameter("resolution").as_deref() {
        None | Some("hour") => Resolution::Hour,
        Some("minute") => Resolution::Minute,
        Some("day") => Resolution::Day,
        Some(_) => return Err(Problem::of_field(MEANINGLESS, "resolution", "expected minute, hour or day")),
    };
    let moment = |name: &str| ask.parameter(name).map(|text| params::moment(name, &text)).transpose();
    let to = moment("to")?.unwrap_or_else(|| Utc::now().trunc_subsecs(6));
    let length = resolution.seconds();
    let default = || to.checked_sub_signed(TimeDelta::seconds(length * BUCKETS_DEFAULT)).unwrap_or(to);
    let from = moment("from")?.unwrap_or_else(default);
    if from >= to {
        return Err(Problem::of_field(MEANINGLESS, "from", "expected a time before `to`"));
    }
    if (to - from).num_seconds() / length >= BUCKETS_MAX {
        return Err(Problem::of_field(
            MEANINGLESS,
            "from",
            format!(
                "the period has more than {BUCKETS_MAX} buckets: choose a coarser resolution or a shorter period"
            ),
        ));
    }
    Ok(Period { resolution, from, to })
}
