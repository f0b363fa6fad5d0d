//! Access to the cache for the API: outcomes, the edge layers, and preloading.

use std::sync::Arc;

use redis::RedisError;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::Store;

use super::edge::{Edge, EdgeWriter};
use super::error::CacheError;
use super::preload::Preloader;
use super::reader::Reader;

/// Readers and writers of the cache, on one connection.
#[derive(Debug, Clone)]
pub struct CacheView {
    pub reader: Reader,
    pub edge: Edge,
    pub preloader: Arc<Preloader>,
}

impl CacheView {
    /// Opens the cache without connecting. `None` if `REDIS_URL` is not set. The returned [`EdgeWriter`] must be spawned.
    pub fn open(
        config: &Arc<Config>,
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<(Self, EdgeWriter)>, RedisError> {
        let Some(reader) = Reader::new(config, Arc::clone(store), Arc::clone(metrics))? else {
            return Ok(None);
        };
        let (edge, keeper) = Edge::open(reader.client(), config, store, metrics);
        let preloader = Arc::new(Preloader::new(reader.client(), config, store));
        Ok(Some((Self { reader, edge, preloader }, keeper)))
    }

    /// Last known error of the connection. `None`: there is none.
    pub fn cache_error(&self) -> Option<CacheError> {
        self.reader.cache_error()
    }
}
