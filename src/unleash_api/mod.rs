//! The API for Unleash's SDKs, without HTTP: tokens, contexts, prepared definitions, streams, and SDK metrics.
//!
//! ```text
//!  token ─► tokens: pre-trusted, memory, Unleash ─► selection: environment and flags of the caller
//!                                                       │
//!  store ─► flag_sets: the selected flags, sorted ◄─────┘
//!               ├─► express ─► features: body, ETag, gzip (once per change) ─► streams (one frame for all listeners)
//!               └─► evaluation for frontend SDKs: context, addresses ─► repeats ─► events
//!  reported impressions ─► impressions ───────────────────────────────────┘
//!  SDK metrics ─► client_metrics ─► outbox ─► feature-flag-client-metrics ─► forward (leader) ─► Unleash
//! ```
//!
//! `http::unleash` has the routes. The protocol is implemented from the types that Unleash publishes (`unleash-types`),
//! the client specification and the SDKs.

pub mod addresses;
pub mod client_metrics;
pub mod context;
pub mod express;
pub mod features;
pub mod flag_sets;
pub mod forward;
pub mod impressions;
pub mod repeats;
pub mod selection;
pub mod streams;
pub mod tokens;

use std::sync::Arc;

use crate::config::Config;
use crate::database::Database;
use crate::feed::unleash::Client;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::store::Store;

use flag_sets::FlagSets;
use repeats::Repeats;
use streams::Streams;
use tokens::Tokens;

/// State of the API for Unleash's SDKs, built once.
#[derive(Debug)]
pub struct UnleashApi {
    pub tokens: Arc<Tokens>,
    pub flag_sets: Arc<FlagSets>,
    pub streams: Arc<Streams>,
    pub repeats: Repeats,
}

impl UnleashApi {
    /// Builds the state; `None` if the API is not enabled.
    pub fn new(
        config: &Config,
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
        database: Option<Database>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        if !config.unleash_api.enabled {
            return Ok(None);
        }
        let client = Client::new(&config.unleash)?;
        let flag_sets = Arc::new(FlagSets::new(Arc::clone(metrics)));
        Ok(Some(Arc::new(Self {
            tokens: Tokens::new(config, client, database, metrics.unleash_api.clone()),
            streams: Streams::new(Arc::clone(store), Arc::clone(&flag_sets), shutdown.clone()),
            flag_sets,
            repeats: Repeats::new(config.unleash_api.repeat),
        })))
    }
}
