//! Management of the edge API's cache: statistics, and removal of a flag's values.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::evaluate::environment_of;
use crate::http::input::NoBody;
use crate::http::manage::{FlagName, FlagPath};
use crate::http::openapi::calls::{EdgeProblems, EdgeQuery};
use crate::http::openapi::edge::{CacheCleared, CacheLayer, CacheRedis, CacheStats};
use crate::http::places::Pool;
use crate::log_limit::limited;
use crate::redis_cache::edge::{CHECK_LIFE, DATA_LIFE, ENDPOINT_LIFE, Layer};

/// Removes the cached values of a flag, for all users.
#[utoipa::path(
    delete,
    path = "/flags/{name}/cache",
    operation_id = "edgeClearFlagCache",
    tag = "edge",
    params(FlagPath, EdgeQuery),
    responses((status = 200, description = "Removed", body = CacheCleared), EdgeProblems)
)]
pub(in crate::http) async fn clear(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    name: FlagName,
    NoBody(input): NoBody,
) -> Result<Json<CacheCleared>, Problem> {
    let environment = environment_of(&api, &input, None).into_owned();
    caller.check_environment(&environment)?;
    let name = name.evaluable(&api, &caller, &environment)?;
    let _place = api.places.take(Pool::Management)?;
    let known = {
        let snapshot = api.store.load();
        snapshot.environment(&environment).is_some_and(|flags| flags.get(&name).is_some())
    };
    if !known && api.store.is_ready() {
        let detail = format!("environment {environment} has no flag {name}");
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    let removed = match (&api.view, &api.edge_memory) {
        (Some(view), _) => view.edge.clear(&environment, &name).await,
        (None, memory) => Ok(memory.as_ref().map_or(0, |memory| memory.clear(&environment, &name))),
    };
    // Redis's error text may contain addresses, so it is only logged.
    let removed = removed.map_err(|trouble| {
        limited!(warn, %trouble, flag = name, "the cached values of a flag could not be removed from Redis");
        let detail = format!(
            "the cached values were not removed: Redis is unreachable ({}); retry later",
            trouble.reason()
        );
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
    })?;
    Ok(Json(CacheCleared { flag_name: name, environment, removed_keys: removed }))
}

/// Returns how many reads of this process found their answer in Redis.
#[utoipa::path(
    get,
    path = "/cache/stats",
    operation_id = "edgeGetCacheStats",
    tag = "edge",
    params(EdgeQuery),
    responses((status = 200, description = "Counters since the process started", body = CacheStats), EdgeProblems)
)]
pub(in crate::http) async fn stats(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    NoBody(input): NoBody,
) -> Result<Json<CacheStats>, Problem> {
    caller.check_environment(&environment_of(&api, &input, None))?;
    let _place = api.places.take(Pool::Management)?;
    let layers = [Layer::Check, Layer::Endpoint, Layer::List].map(|layer| {
        let (hits, misses) = api.metrics.edge.so_far(layer.as_str());
        (layer.as_str().to_owned(), CacheLayer { hits, misses, hit_rate: rate(hits, misses) })
    });
    let hits = layers.iter().map(|(_, layer)| layer.hits).sum();
    let misses = layers.iter().map(|(_, layer)| layer.misses).sum();
    Ok(Json(CacheStats {
        hits,
        misses,
        hit_rate: rate(hits, misses),
        layers: layers.into(),
        ttl_seconds: [("check", CHECK_LIFE), ("endpoint", ENDPOINT_LIFE), ("data", DATA_LIFE)]
            .map(|(name, life)| (name.to_owned(), life.as_secs()))
            .into(),
        redis: redis(&api).await,
    }))
}

async fn redis(api: &Api) -> CacheRedis {
    let Some(view) = &api.view else {
        let keys = api.edge_memory.as_ref().map(|memory| memory.keys());
        let state = if keys.is_some() { "memory" } else { "off" };
        return CacheRedis { state: state.to_owned(), keys };
    };
    match view.edge.keys().await {
        Ok(keys) => CacheRedis { state: "up".to_owned(), keys },
        Err(_) => CacheRedis { state: "down".to_owned(), keys: None },
    }
}

/// Hit rate from 0 to 1; 0 if there were no reads.
fn rate(hits: u64, misses: u64) -> f64 {
    if hits == 0 { 0.0 } else { hits as f64 / (hits + misses) as f64 }
}
