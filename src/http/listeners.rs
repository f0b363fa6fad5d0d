//! Slots for open streams, with an overall limit and a limit per address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use prometheus_client::metrics::gauge::Gauge;

use crate::auth::network;

use super::Problem;
use super::caller::Peer;

/// Keeps caches and reverse proxies from storing a stream. Proxies would delay its events otherwise.
pub(super) fn disable_buffering(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
}

/// Slots of all streams: of changes, of definitions for SDKs, and of evaluations.
#[derive(Debug)]
pub(super) struct Listeners {
    max: usize,
    max_per_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// Slot of one stream, released when dropped.
#[derive(Debug)]
pub(super) struct ListenerPlace {
    listeners: Arc<Listeners>,
    network: Option<IpAddr>,
    open: Gauge,
}

impl Listeners {
    /// Creates `max` slots, of which `max_per_address` are for one address.
    pub(super) fn new(max: usize, max_per_address: usize) -> Arc<Self> {
        Arc::new(Self { max, max_per_address, taken: Mutex::default() })
    }

    /// Takes a slot for a stream to this address and counts it in `open`. An error if the overall or the per-address
    /// limit is reached.
    pub(super) fn take(self: &Arc<Self>, peer: Option<Peer>, open: &Gauge) -> Result<ListenerPlace, Problem> {
        let address = peer.map(|Peer(address)| address);
        let network = address.filter(|address| !address.to_canonical().is_loopback()).map(network);
        let mut taken = self.lock();
        let refuse =
            |detail: String| Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(5));
        if taken.all >= self.max {
            return refuse(format!(
                "the limit of {} open streams is reached (FLAGSTREAM_HTTP__LISTENERS); retry later",
                self.max
            ));
        }
        if let Some(network) = network {
            let of_network = taken.by_network.entry(network).or_default();
            if *of_network >= self.max_per_address {
                return refuse(format!(
                    "the limit of {} open streams of one address is reached; close one, or retry later",
                    self.max_per_address
                ));
            }
            *of_network += 1;
        }
        taken.all += 1;
        drop(taken);
        open.inc();
        Ok(ListenerPlace { listeners: Arc::clone(self), network, open: open.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ListenerPlace {
    fn drop(&mut self) {
        let mut taken = self.listeners.lock();
        taken.all -= 1;
        if let Some(network) = self.network
            && let Some(count) = taken.by_network.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                taken.by_network.remove(&network);
            }
        }
        drop(taken);
        self.open.dec();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_the_places_of_all() {
        let (listeners, open) = (Listeners::new(100, 2), Gauge::default());
        let take = |from: &str| listeners.take(Some(Peer(from.parse().unwrap())), &open);
        let one = take("2001:db8::1").unwrap();
        let _two = take("2001:db8::2").unwrap();
        let problem = take("2001:db8::3").unwrap_err();
        assert_eq!(problem.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(problem.detail.contains("of one address"), "{problem:?}");
        let _other = take("10.0.0.1").unwrap();
        let _near: Vec<_> = (0..5).map(|_| take("127.0.0.1").unwrap()).collect();
        assert_eq!(open.get(), 8);
        drop(one);
        let _again = take("2001:db8::3").unwrap();
        assert_eq!(open.get(), 8);
    }

    #[test]
    fn all_addresses_together_have_the_configured_places() {
        let (listeners, open) = (Listeners::new(2, 2), Gauge::default());
        let take = |from: &str| listeners.take(Some(Peer(from.parse().unwrap())), &open);
        let _places = [take("10.0.0.1").unwrap(), take("127.0.0.1").unwrap()];
        let problem = take("10.0.0.2").unwrap_err();
        assert_eq!(problem.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(problem.detail.contains("FLAGSTREAM_HTTP__LISTENERS"), "{problem:?}");
    }
}
