//! State shared by the routes of the `api` role.

use std::sync::Arc;

use crate::attributes::{AttributeWriter, Attributes};
use crate::auth::TokenCache;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::evaluate::Parts;
use crate::feed::Usage;
use crate::live::Live;
use crate::manage::Manager;
use crate::metrics::Metrics;
use crate::outbox::Publisher;
use crate::privacy::Privacy;
use crate::redis_cache::CacheView;
use crate::redis_cache::edge::EdgeMemory;
use crate::schema_registry::Formats;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::unleash_api::UnleashApi;

use super::bodies::Bodies;
use super::caller::Authenticator;
use super::counts::Counts;
use super::listeners::Listeners;
use super::places::Places;

/// State shared by the routes of the `api` role, built once.
#[derive(Debug)]
pub struct Api {
    pub config: Arc<Config>,
    pub formats: Arc<Formats>,
    pub store: Arc<Store>,
    /// Tables that complete contexts; `None` if there are none.
    pub attributes: Option<Arc<Attributes>>,
    pub(super) attribute_writer: AttributeWriter,
    pub metrics: Arc<Metrics>,
    pub usage: Arc<Usage>,
    pub publisher: Arc<Publisher>,
    /// Redis cache; `None` if Redis is not configured.
    pub view: Option<CacheView>,
    /// In-memory cache of the edge API, for `flagstream dev` without Redis.
    pub edge_memory: Option<EdgeMemory>,
    pub shutdown: Shutdown,
    /// The API for Unleash's SDKs; `None` if it is not enabled.
    pub unleash: Option<Arc<UnleashApi>>,
    pub manager: Manager,
    /// Reports of all instances.
    pub cluster: Arc<Cluster>,
    /// Watchers of evaluations.
    pub live: Arc<Live>,
    pub(super) authenticator: Authenticator,
    pub(super) counts: Counts,
    pub(super) places: Places,
    pub(super) bodies: Arc<Bodies>,
    pub(super) listeners: Arc<Listeners>,
    pub(super) hostname: String,
    /// Privacy rules for events; `None` if they are written unchanged.
    pub(super) privacy: Option<Arc<Privacy>>,
}

impl Api {
    pub fn new(
        parts: Parts,
        publisher: Arc<Publisher>,
        tokens: Option<Arc<TokenCache>>,
        manager: Manager,
        view: Option<CacheView>,
        cluster: Arc<Cluster>,
        unleash: Option<Arc<UnleashApi>>,
    ) -> Arc<Self> {
        let Parts { config, formats, attributes, metrics, usage, shutdown, .. } = parts;
        let in_memory = view.is_none() && config.redis.edge_in_memory;
        let edge_memory = in_memory.then(|| EdgeMemory::new(&config, &manager.store(), &metrics));
        Arc::new(Self {
            authenticator: Authenticator::new(&config.auth, tokens),
            listeners: Listeners::new(config.http.listeners, config.http.listeners_per_address),
            privacy: Privacy::of(&config.privacy),
            live: Live::new(Arc::clone(&config), Arc::clone(&formats), shutdown.clone()),
            attribute_writer: AttributeWriter::new(&config),
            attributes,
            cluster,
            config,
            formats,
            store: manager.store(),
            metrics,
            usage,
            publisher,
            view,
            edge_memory,
            shutdown,
            unleash,
            counts: Counts::default(),
            places: Places::new(),
            bodies: Bodies::new(),
            manager,
            hostname: gethostname::gethostname().to_string_lossy().into_owned(),
        })
    }

    /// Adds the counts since the last call to the metrics. To be called a few times per second.
    pub fn flush_counts(&self) {
        self.counts.flush(&self.metrics, &self.usage);
    }
}
