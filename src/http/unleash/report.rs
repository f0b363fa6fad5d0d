//! Reports of SDKs: applications, and evaluations of flags.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use chrono::{DateTime, Utc};

use crate::http::Problem;
use crate::http::api::Api;
use crate::http::openapi::unleash::{SdkApplication, SdkBulkMetrics, SdkMetrics, SdkReportProblems};
use crate::http::places::Pool;
use crate::outbox::EventBatch;
use crate::unleash_api::client_metrics::{self, ClientMetricsRecord, ReportError};

use super::{BackendCaller, FrontendCaller, SdkCaller};

/// Paths below which frontend SDKs report.
pub(super) const FRONTEND_PATHS: [&str; 4] =
    ["/api/frontend", "/api/frontend/all", "/api/proxy", "/api/proxy/all"];

pub(super) fn routes() -> Router<Arc<Api>> {
    let mut routes = Router::new()
        .route("/api/client/register", post(register))
        .route("/api/client/metrics", post(metrics))
        .route("/api/client/metrics/bulk", post(bulk))
        .route("/api/client/metrics/edge", post(edge));
    for path in FRONTEND_PATHS {
        routes = routes
            .route(&format!("{path}/client/register"), post(frontend_register))
            .route(&format!("{path}/client/metrics"), post(frontend_metrics));
    }
    routes
}

type Read = fn(&[u8], &str, DateTime<Utc>) -> Result<Vec<ClientMetricsRecord>, ReportError>;

/// Registers an application of server SDKs. It is forwarded to Unleash later.
#[utoipa::path(
    post,
    path = "/api/client/register",
    operation_id = "sdkRegister",
    tag = "unleash",
    request_body = SdkApplication,
    responses((status = 202, description = "Accepted"), SdkReportProblems)
)]
pub(super) async fn register(
    State(api): State<Arc<Api>>,
    BackendCaller(caller): BackendCaller,
    request: Request,
) -> Result<Response, Problem> {
    accept(&api, &caller, request, client_metrics::application).await
}

/// Takes the counts of evaluations by a server SDK. They are forwarded to Unleash later.
#[utoipa::path(
    post,
    path = "/api/client/metrics",
    operation_id = "sdkReportMetrics",
    tag = "unleash",
    request_body = SdkMetrics,
    responses((status = 202, description = "Accepted"), SdkReportProblems)
)]
pub(super) async fn metrics(
    State(api): State<Arc<Api>>,
    BackendCaller(caller): BackendCaller,
    request: Request,
) -> Result<Response, Problem> {
    accept(&api, &caller, request, client_metrics::metrics).await
}

/// Takes the counts of many applications, from another proxy.
#[utoipa::path(
    post,
    path = "/api/client/metrics/bulk",
    operation_id = "sdkReportBulkMetrics",
    tag = "unleash",
    request_body = SdkBulkMetrics,
    responses((status = 202, description = "Accepted"), SdkReportProblems)
)]
pub(super) async fn bulk(
    State(api): State<Arc<Api>>,
    BackendCaller(caller): BackendCaller,
    request: Request,
) -> Result<Response, Problem> {
    accept(&api, &caller, request, client_metrics::bulk).await
}

/// Takes what another proxy reports about itself, and drops it.
#[utoipa::path(
    post,
    path = "/api/client/metrics/edge",
    operation_id = "sdkReportProxy",
    tag = "unleash",
    responses((status = 202, description = "Accepted, and dropped"), SdkReportProblems)
)]
pub(super) async fn edge(
    State(api): State<Arc<Api>>,
    _caller: BackendCaller,
    request: Request,
) -> Result<Response, Problem> {
    api.bodies.read(request.into_body()).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Registers an application of frontend SDKs. It is forwarded to Unleash later.
#[utoipa::path(
    post,
    path = "/api/frontend/client/register",
    operation_id = "sdkRegisterFrontend",
    tag = "unleash",
    request_body = SdkApplication,
    responses((status = 202, description = "Accepted"), SdkReportProblems)
)]
pub(super) async fn frontend_register(
    State(api): State<Arc<Api>>,
    FrontendCaller(caller): FrontendCaller,
    request: Request,
) -> Result<Response, Problem> {
    accept(&api, &caller, request, client_metrics::application).await
}

/// Takes the counts of evaluations by a frontend SDK. They are forwarded to Unleash later.
#[utoipa::path(
    post,
    path = "/api/frontend/client/metrics",
    operation_id = "sdkReportFrontendMetrics",
    tag = "unleash",
    request_body = SdkMetrics,
    responses((status = 202, description = "Accepted"), SdkReportProblems)
)]
pub(super) async fn frontend_metrics(
    State(api): State<Arc<Api>>,
    FrontendCaller(caller): FrontendCaller,
    request: Request,
) -> Result<Response, Problem> {
    accept(&api, &caller, request, client_metrics::metrics).await
}

/// Reads a report, and accepts it once the outbox has its records.
async fn accept(api: &Api, caller: &SdkCaller, request: Request, read: Read) -> Result<Response, Problem> {
    let body = api.bodies.read(request.into_body()).await?;
    let _place = api.places.take(Pool::Evaluation)?;
    let environment = &caller.selection().environment;
    let records = read(&body, environment, Utc::now())?;
    let mut batch = EventBatch::of_client_metrics(Arc::clone(environment));
    let mut evaluations = 0;
    for record in &records {
        let value = serde_json::to_vec(record).map_err(|error| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the report cannot be written: {error}"))
        })?;
        batch.record(Some(record.key().as_bytes()), |out| out.extend_from_slice(&value));
        evaluations += record.evaluations();
    }
    let unrecorded = |error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(1);
    api.publisher.publish_surely(batch).await.map_err(unrecorded)?;
    api.metrics.unleash_api.reported_evaluations.inc_by(evaluations);
    Ok(StatusCode::ACCEPTED.into_response())
}

impl From<ReportError> for Problem {
    fn from(error: ReportError) -> Self {
        let status = match error {
            ReportError::Form(_) | ReportError::App | ReportError::Count(_) => StatusCode::BAD_REQUEST,
            ReportError::TooMany(_) | ReportError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        };
        Self::new(status, error)
    }
}
