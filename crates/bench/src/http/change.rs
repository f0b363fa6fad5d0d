//! A route of the benchmark's server that changes one flag, so that streams have something to send.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;

use flagstream::flag::FlagChange;
use flagstream::store::Store;

use crate::load;

/// Path of the route.
pub(crate) const PATH: &str = "/bench/change";
/// The flag that changes.
const FLAG: usize = 0;
/// Version of the first change, higher than that of any flag.
const FIRST_VERSION: u64 = 2_000_000_000_000;

/// The route; each call puts another definition of the flag in force.
pub(super) fn route(store: Arc<Store>) -> Router {
    let changes = Arc::new(AtomicU64::new(0));
    Router::new().route(
        PATH,
        post(async move || {
            let number = changes.fetch_add(1, Ordering::Relaxed);
            let mut definition = load::targeted(FLAG);
            definition["description"] = format!("change {number}").into();
            match load::recorded(FLAG, FIRST_VERSION + number, &definition) {
                Ok(flag) => {
                    store.apply([FlagChange::Set(Arc::new(flag))]);
                    (StatusCode::OK, String::new())
                }
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }),
    )
}
