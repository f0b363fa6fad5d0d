//! The routes for Unleash's SDKs, which otherwise Unleash or Unleash Edge serves.
//!
//! ```text
//!  /api/client/…    server SDKs: definitions (client), streams (streaming)
//!  /api/frontend/…  frontend SDKs: results, evaluated here (frontend), and what they have shown (impressions);
//!                   /api/proxy/… is the same
//!  /edge/validate   other proxies: which tokens are valid
//! ```
//!
//! An SDK may stop for good after 401 or 403. Therefore 401 is only for a missing token, and 403 for a token that Unleash
//! or the own table refuses, or that is for the other kind of SDKs. Whenever that cannot be determined, the answer is 503.

mod client;
mod frontend;
mod impressions;
mod report;
mod streaming;
mod tags;
mod validate;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Request};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer, ExposeHeaders};

use crate::config::{Scope, TokenKind};
use crate::flag::Snapshot;
use crate::unleash_api::UnleashApi;
use crate::unleash_api::addresses;
use crate::unleash_api::flag_sets::Selected;
use crate::unleash_api::selection::Selection;
use crate::unleash_api::tokens::cache::Known;
use crate::unleash_api::tokens::{Access, Found};

use super::api::Api;
use super::caller::{Caller, Peer};
use super::evaluate::ENVIRONMENT_HEADER;
use super::{HttpState, Limits, Problem};

pub(super) use client::{__path_feature, __path_features, __path_features_by_post};
pub(super) use frontend::Unrecorded;
pub(super) use frontend::{
    __path_all, __path_all_by_post, __path_enabled, __path_enabled_by_post, __path_one, __path_one_by_post,
};
pub(super) use impressions::__path_report_impressions;
pub(super) use report::{
    __path_bulk, __path_edge, __path_frontend_metrics, __path_frontend_register, __path_metrics,
    __path_register,
};
pub(super) use streaming::__path_streaming;
pub(super) use validate::{__path_validate, backstage};

/// How long a browser may cache the result of a CORS preflight request, in seconds.
const PREFLIGHT_MAX_AGE_SECONDS: u64 = 172_800;
/// `Retry-After` in seconds when it cannot be determined whether a token is valid.
const TOKEN_RETRY_SECONDS: u32 = 5;
/// `Retry-After` in seconds while the flags are not loaded.
const STORE_RETRY_SECONDS: u32 = 2;
/// Maximum length of the application's name and of the connection id in events, in bytes.
const MAX_SOURCE_BYTES: usize = 255;

/// Caller of a route for SDKs. It can have a token of Unleash, which has no scopes; a token of this service must have the
/// scope `evaluate`.
#[derive(Debug)]
pub(super) struct SdkCaller {
    pub(super) unleash: Arc<UnleashApi>,
    pub(super) access: Arc<Access>,
    voids: Voids,
}

/// Event that ends the validity of a caller's token.
#[derive(Debug)]
enum Voids {
    Never,
    Revocation(Arc<Known>),
    Own(Caller),
}

/// Facts about the SDK that a request names in its headers.
#[derive(Debug)]
pub(super) struct Sdk<'h> {
    pub(super) app: Option<&'h str>,
    pub(super) connection: Option<&'h str>,
}

/// Caller of a route for server SDKs.
pub(super) struct BackendCaller(pub(super) SdkCaller);
/// Caller of a route for frontend SDKs.
pub(super) struct FrontendCaller(pub(super) SdkCaller);

/// Builds the routes for SDKs; empty if they are not enabled.
pub(super) fn router(http_state: &HttpState, api: &Arc<Api>) -> Router {
    let config = &api.config.unleash_api;
    if !config.enabled {
        return Router::new();
    }
    let mut routes = Router::new()
        .merge(client::routes())
        .merge(streaming::routes())
        .merge(frontend::routes(config.all_endpoints))
        .merge(report::routes())
        .merge(impressions::routes())
        .merge(validate::routes());
    routes = routes.method_not_allowed_fallback(async || {
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "the route does not support this method")
    });
    let routes = Limits::of(http_state, Some(Arc::clone(api))).around(routes).with_state(Arc::clone(api));
    let routes = routes.layer(cors(&api.config.api.cors_origins));
    match config.base_path.as_str() {
        "" => routes,
        base => Router::new().nest(base, routes),
    }
}

/// Builds the CORS layer. Any origin may call unless origins are configured: every route requires a token in a header,
/// which browsers do not add by themselves.
fn cors(origins: &[String]) -> CorsLayer {
    let any = origins.is_empty() || origins.iter().any(|origin| origin == "*");
    let listed = origins.iter().filter_map(|origin| HeaderValue::try_from(origin.as_str()).ok());
    CorsLayer::new()
        .allow_origin(if any { AllowOrigin::any() } else { AllowOrigin::list(listed) })
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::any())
        .max_age(std::time::Duration::from_secs(PREFLIGHT_MAX_AGE_SECONDS))
}

/// The request with single slashes and none at the end of its path. The error is the path, if it is so already.
pub(super) fn without_extra_slashes(mut request: Request) -> Result<Request, String> {
    let path = request.uri().path();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let tidied = format!("/{}", parts.join("/"));
    if tidied == path {
        return Err(tidied);
    }
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut uri = request.uri().clone().into_parts();
    uri.path_and_query = PathAndQuery::try_from(tidied + &query).ok();
    match Uri::from_parts(uri) {
        Ok(uri) => {
            *request.uri_mut() = uri;
            Ok(request)
        }
        Err(_) => Err(request.uri().path().to_owned()),
    }
}

/// Advice for a path that SDKs with a wrong URL ask for.
pub(super) fn advice(path: &str) -> Option<&'static str> {
    match path {
        "/api" => Some("there is no route with this path; frontend SDKs need the URL …/api/frontend"),
        "/client/features" | "/frontend" | "/proxy" => Some(
            "there is no route with this path; SDKs of Unleash need a URL that ends with /api, or /api/frontend",
        ),
        _ => None,
    }
}

impl SdkCaller {
    /// Identifies the caller of a route for SDKs of `kind`.
    async fn identify(
        api: &Arc<Api>,
        headers: &HeaderMap,
        peer: Option<Peer>,
        kind: TokenKind,
    ) -> Result<Self, Problem> {
        let Some(unleash) = api.unleash.clone() else {
            return Err(Problem::new(StatusCode::NOT_FOUND, "the API for Unleash's SDKs is not enabled"));
        };
        let header = api.config.unleash_api.token_header.as_str();
        let token = headers.get(header).and_then(|value| value.to_str().ok()).map(str::trim);
        let Some(token) = token.map(without_scheme).filter(|token| !token.is_empty()) else {
            let detail = format!("the request needs a token in the header {header}");
            let problem = Problem::new(StatusCode::UNAUTHORIZED, detail);
            return Err(
                problem.header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"flagstream\""))
            );
        };
        let caller = if api.authenticator.is_own(token) {
            let caller = api.authenticator.identify_token(token, peer).await.map_err(refused_token)?;
            let access = Arc::new(own_access(api, &caller, headers)?);
            Self { unleash, access, voids: Voids::Own(caller) }
        } else {
            match unleash.tokens.find(token).await {
                Found::Pretrusted(access) => Self { unleash, access, voids: Voids::Never },
                Found::Valid(known) => {
                    let access = Arc::new(known.access.clone());
                    Self { unleash, access, voids: Voids::Revocation(known) }
                }
                Found::Invalid => return Err(refused_token(Problem::new(StatusCode::UNAUTHORIZED, ""))),
                Found::Undetermined(why) => {
                    let detail = format!("the token cannot be checked: {why}; retry later");
                    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
                    return Err(problem.retry_after(TOKEN_RETRY_SECONDS));
                }
            }
        };
        caller.check_kind(kind)?;
        Ok(caller)
    }

    fn check_kind(&self, kind: TokenKind) -> Result<(), Problem> {
        match self.access.kind {
            Some(own) if own != kind => {
                let (own, other) = (own.name(), kind.name());
                let detail = format!("the token is for {own} SDKs, and this route for {other} SDKs");
                Err(Problem::new(StatusCode::FORBIDDEN, detail))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn selection(&self) -> &Selection {
        &self.access.selection
    }

    /// Flags of the token that are in force.
    pub(super) fn selected(&self, api: &Api, snapshot: &Snapshot) -> Result<Arc<Selected>, Problem> {
        let selected = self.unleash.flag_sets.of(self.selection()).selected(snapshot);
        let has_attributes = api.attributes.as_ref().is_none_or(|attributes| attributes.is_ready());
        let selected = selected.filter(|_| api.store.is_ready() && has_attributes);
        selected.ok_or_else(|| not_loaded(api, &self.selection().environment))
    }

    /// Completes when the token is no longer valid.
    pub(super) async fn until_void(self) {
        match self.voids {
            Voids::Never => std::future::pending().await,
            Voids::Revocation(known) => known.until_revoked().await,
            Voids::Own(caller) => caller.until_void().await,
        }
    }
}

/// Problem for a token that is not valid. Other problems are not changed.
fn refused_token(problem: Problem) -> Problem {
    match problem.status {
        StatusCode::UNAUTHORIZED => {
            Problem::new(StatusCode::FORBIDDEN, "the token is unknown, revoked or expired")
        }
        _ => problem,
    }
}

/// Permissions of a token of this service. Its environment is the one that the request names, or its only one, or the
/// default one.
fn own_access(api: &Api, caller: &Caller, headers: &HeaderMap) -> Result<Access, Problem> {
    caller.may(Scope::Evaluate)?;
    let named = headers.get(ENVIRONMENT_HEADER).and_then(|value| value.to_str().ok());
    let listed = caller.environments();
    let environment = match (named, listed.as_deref()) {
        (Some(named), _) => named,
        (None, Some([only])) => only,
        (None, _) => &api.config.unleash.default_environment,
    };
    caller.may_in(Scope::Evaluate, environment)?;
    let selection = Selection::restricted(environment, caller.restrictions());
    Ok(Access { kind: caller.kind(), selection })
}

/// The token without a leading `Bearer`.
fn without_scheme(header: &str) -> &str {
    super::caller::bearer(header).unwrap_or(header)
}

impl FromRequestParts<Arc<Api>> for BackendCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Peer>().copied();
        SdkCaller::identify(api, &parts.headers, peer, TokenKind::Backend).await.map(Self)
    }
}

impl FromRequestParts<Arc<Api>> for FrontendCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Peer>().copied();
        SdkCaller::identify(api, &parts.headers, peer, TokenKind::Frontend).await.map(Self)
    }
}

impl<'h> Sdk<'h> {
    pub(super) fn of(headers: &'h HeaderMap) -> Self {
        let first = |names: [&str; 2]| {
            let mut values = names.into_iter().filter_map(|name| headers.get(name)?.to_str().ok());
            values.find(|value| !value.is_empty() && value.len() <= MAX_SOURCE_BYTES)
        };
        Self {
            app: first(["unleash-appname", "x-unleash-appname"]),
            connection: first(["unleash-connection-id", "x-unleash-connection-id"]),
        }
    }
}

/// Address of the caller, behind trusted proxies.
fn address(api: &Api, headers: &HeaderMap, peer: Option<Peer>) -> Option<IpAddr> {
    peer.map(|Peer(peer)| addresses::caller(headers, peer, &api.config.unleash_api.trusted_proxies))
}

/// Problem while the flags, or those of the environment, are not loaded.
fn not_loaded(api: &Api, environment: &str) -> Problem {
    let has_attributes = api.attributes.as_ref().is_none_or(|attributes| attributes.is_ready());
    let detail = match api.store.is_ready() {
        true if !has_attributes => "the attributes are not loaded yet; retry later".to_owned(),
        true => format!("environment {environment} is not served by this service"),
        false => "the flags are not loaded yet; retry later".to_owned(),
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(STORE_RETRY_SECONDS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn extra_slashes_are_removed_and_the_query_stays() {
        let tidied = |uri: &str| {
            let request = Request::builder().uri(uri).body(Body::empty()).unwrap();
            without_extra_slashes(request).map(|request| request.uri().to_string())
        };
        assert_eq!(tidied("//api//client/features/?a=//b").unwrap(), "/api/client/features?a=//b");
        assert_eq!(tidied("/api/frontend/").unwrap(), "/api/frontend");
        assert_eq!(tidied("/api/frontend").unwrap_err(), "/api/frontend");
        assert_eq!(tidied("/").unwrap_err(), "/");
        assert!(advice("/api").unwrap().contains("/api/frontend") && advice("/x").is_none());
    }

    #[test]
    fn tokens_come_bare_or_with_their_scheme() {
        assert_eq!(without_scheme("*:dev.abc"), "*:dev.abc");
        assert_eq!(without_scheme("Bearer *:dev.abc"), "*:dev.abc");
    }
}
