//! Access to the cache for the API: outcomes, the edge layers, and preloading.

use std::sync::Arc;

use redis::RedisError;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::Store;

use super::edge::{Edge, Keeper};
use super::preload::Preloader;
use super::reader::Reader;
use super::trouble::Trouble;

/// Readers and writers of the cache, on one connection.
#[derive(Debug, Clone)]
pub struct View {
    pub reader: Reader,
    pub edge: Edge,
    pub preloader: Arc<Preloader>,
}

impl View {
    /// Opens the cache without connecting. `None` if `REDIS_URL` is not set. The returned [`Keeper`] must be spawned.
    pub fn open(
        config: &Arc<Config>,
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<(Self, Keeper)>, RedisError> {
        let Some(reader) = Reader::new(config, Arc::clone(store), Arc::clone(metrics))? else {
            return Ok(None);
        };
        let (edge, keeper) = Edge::open(reader.client(), config, store, metrics);
        let preloader = Arc::new(Preloader::new(reader.client(), config, store));
        Ok(Some((Self { reader, edge, preloader }, keeper)))
    }

    /// Last known error of the connection. `None`: there is none.
    pub fn trouble(&self) -> Option<Trouble> {
        self.reader.trouble()
    }
}
