//! The view as the API has it: outcomes to be read, and the edge's layers.

use std::sync::Arc;

use redis::RedisError;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::Store;

use super::edge::{Edge, Keeper};
use super::preload::Preloader;
use super::reader::Reader;
use super::trouble::Trouble;

/// One connection for both.
#[derive(Debug, Clone)]
pub struct View {
    pub reader: Reader,
    pub edge: Edge,
    pub preloader: Arc<Preloader>,
}

impl View {
    /// `None` without a `REDIS_URL`. Nothing is connected yet, and the keeper is to be run.
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

    /// How the connection is doing: `None` if well, as far as is known.
    pub fn trouble(&self) -> Option<Trouble> {
        self.reader.trouble()
    }
}
