//! The open connections of one listener.
//!
//! Their number is limited, also per address. When no slot is free for a new connection, the
//! oldest connection that never sent a complete request is closed, else the one that has been idle longest. Thus
//! sockets that send nothing cannot block clients that send requests, health checks included.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::network;
use crate::config::HttpConfig;
use crate::metrics::{DropLabels, Metrics};

/// Connections of one HTTP listener beside those of open streams. This is more than all requests that can be in progress
/// at the same time, so that some connections are always idle.
pub const CALL_CONNECTIONS: usize = 2_500;

/// How many connections a listener accepts.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    pub max: usize,
    /// Limit per address (for IPv6 per /64). Loopback addresses, from which a sidecar proxy connects, may use `max`.
    pub max_per_address: usize,
}

impl ConnectionLimits {
    /// The configured limits of each listener.
    pub fn of(config: &HttpConfig) -> Self {
        Self {
            max: config.listeners.saturating_add(CALL_CONNECTIONS),
            max_per_address: config.connections_per_address,
        }
    }
}

/// All open connections of one listener.
#[derive(Debug)]
pub(super) struct Connections {
    limits: ConnectionLimits,
    /// Metrics of closed connections; `None`: they are not counted.
    metrics: Option<Arc<Metrics>>,
    started: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// Open connections in the order in which they were accepted.
    all: BTreeMap<u64, Arc<Activity>>,
    /// Connections that have not sent a complete request yet.
    silent: BTreeSet<u64>,
    by_network: HashMap<IpAddr, usize>,
}

/// Activity of one connection.
#[derive(Debug)]
struct Activity {
    network: IpAddr,
    /// Cancelled when the connection must be closed in favour of another one.
    closing: CancellationToken,
    has_called: AtomicBool,
    calls_under_way: AtomicUsize,
    /// End of the last request, in milliseconds since the listener started.
    idle_since_ms: AtomicU64,
}

/// Slot of one connection, released when dropped.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    connections: Arc<Connections>,
    number: u64,
    activity: Arc<Activity>,
}

/// A request in progress on a connection; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct CallUnderWay(Arc<ConnectionGuard>);

/// Whether a connection is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// No complete request has arrived yet.
    Silent,
    /// At least one request is in progress.
    Busy,
    /// No request has been in progress for this long.
    Idle(Duration),
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits, metrics: Option<Arc<Metrics>>) -> Arc<Self> {
        Arc::new(Self { limits, metrics, started: Instant::now(), open: Mutex::default() })
    }

    /// Takes a slot for a connection from this address. `None` if every slot that it could use is busy with requests.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<ConnectionGuard> {
        let network = network(peer);
        let mut open = self.lock();
        let share = if peer.to_canonical().is_loopback() {
            self.limits.max
        } else {
            self.limits.max_per_address.min(self.limits.max)
        };
        let of_network = open.by_network.get(&network).copied().unwrap_or_default();
        let has_room = if of_network >= share {
            self.close_one(&mut open, Some(network))
        } else {
            open.all.len() < self.limits.max || self.close_one(&mut open, None)
        };
        if !has_room {
            self.count(if of_network >= share { "address" } else { "full" });
            return None;
        }
        let number = open.next;
        open.next += 1;
        let activity = Arc::new(Activity {
            network,
            closing: CancellationToken::new(),
            has_called: AtomicBool::new(false),
            calls_under_way: AtomicUsize::new(0),
            idle_since_ms: AtomicU64::new(self.now_ms()),
        });
        open.all.insert(number, Arc::clone(&activity));
        open.silent.insert(number);
        *open.by_network.entry(network).or_default() += 1;
        drop(open);
        Some(ConnectionGuard { connections: Arc::clone(self), number, activity })
    }

    /// Closes the oldest silent connection, else the longest idle one, of this network or of all. Returns `false` if
    /// all are busy.
    fn close_one(&self, open: &mut Open, network: Option<IpAddr>) -> bool {
        let is_meant = |activity: &Activity| network.is_none_or(|network| activity.network == network);
        let silent = open.silent.iter().find(|number| open.all.get(number).is_some_and(|of| is_meant(of)));
        let victim = silent.map(|number| (*number, "silent")).or_else(|| {
            let idle = open.all.iter().filter(|(_, activity)| is_meant(activity) && activity.is_idle());
            let longest = idle.min_by_key(|(_, activity)| activity.idle_since_ms.load(Ordering::Relaxed));
            longest.map(|(number, _)| (*number, "idle"))
        });
        let Some((number, reason)) = victim else { return false };
        if let Some(activity) = open.remove(number) {
            activity.closing.cancel();
            self.count(reason);
        }
        true
    }

    /// Counts a connection that was closed or refused.
    pub(super) fn count(&self, reason: &'static str) {
        if let Some(metrics) = &self.metrics {
            metrics.dropped.get_or_create(&DropLabels { what: "connection", reason }).inc();
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().all.len()
    }
}

impl Open {
    fn remove(&mut self, number: u64) -> Option<Arc<Activity>> {
        let removed = self.all.remove(&number)?;
        self.silent.remove(&number);
        if let Some(count) = self.by_network.get_mut(&removed.network) {
            *count -= 1;
            if *count == 0 {
                self.by_network.remove(&removed.network);
            }
        }
        Some(removed)
    }
}

impl Activity {
    fn is_idle(&self) -> bool {
        self.has_called.load(Ordering::Relaxed) && self.calls_under_way.load(Ordering::Relaxed) == 0
    }
}

impl ConnectionGuard {
    /// Completes when the connection must be closed in favour of another one.
    pub(super) async fn closing(&self) {
        self.activity.closing.cancelled().await;
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.connections
    }

    pub(super) fn in_use(&self) -> Use {
        if !self.activity.has_called.load(Ordering::Relaxed) {
            return Use::Silent;
        }
        if self.activity.calls_under_way.load(Ordering::Relaxed) > 0 {
            return Use::Busy;
        }
        let since = self.activity.idle_since_ms.load(Ordering::Relaxed);
        Use::Idle(Duration::from_millis(self.connections.now_ms().saturating_sub(since)))
    }

    /// Starts a request, which is in progress until the returned value is dropped.
    pub(super) fn call(self: &Arc<Self>) -> CallUnderWay {
        self.activity.calls_under_way.fetch_add(1, Ordering::Relaxed);
        if !self.activity.has_called.swap(true, Ordering::Relaxed) {
            self.connections.lock().silent.remove(&self.number);
        }
        CallUnderWay(Arc::clone(self))
    }
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        let ConnectionGuard { activity, connections, .. } = &*self.0;
        activity.idle_since_ms.store(connections.now_ms(), Ordering::Relaxed);
        activity.calls_under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.lock().remove(self.number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pool(max: usize, max_per_address: usize) -> Arc<Connections> {
        Connections::new(ConnectionLimits { max, max_per_address }, None)
    }

    fn is_closing(place: &ConnectionGuard) -> bool {
        place.activity.closing.is_cancelled()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_oldest_silent_connection_makes_room_before_an_idle_one_and_a_busy_one_never_does() {
        let pool = pool(3, 3);
        let [idle, busy, silent] =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|from| Arc::new(pool.admit(address(from)).unwrap()));
        drop(idle.call());
        let _call = busy.call();
        let first = Arc::new(pool.admit(address("10.0.0.4")).unwrap());
        assert!(is_closing(&silent) && !is_closing(&idle) && !is_closing(&busy));
        let _first_call = first.call();
        let second = Arc::new(pool.admit(address("10.0.0.5")).unwrap());
        assert!(is_closing(&idle) && !is_closing(&busy));
        let _second_call = second.call();
        // All connections are busy.
        assert!(pool.admit(address("10.0.0.6")).is_none());
        assert_eq!(pool.len(), 3);
        drop(silent);
        assert_eq!(pool.len(), 3, "a connection that was closed has given its place back already");
    }

    #[test]
    fn an_address_has_its_share_and_closes_its_own_connections_only() {
        let pool = pool(10, 2);
        let other = pool.admit(address("10.0.0.9")).unwrap();
        let one = pool.admit(address("10.0.0.1")).unwrap();
        let two = Arc::new(pool.admit(address("::ffff:10.0.0.1")).unwrap());
        let _call = two.call();
        let three = Arc::new(pool.admit(address("10.0.0.1")).unwrap());
        assert!(is_closing(&one) && !is_closing(&other));
        let _another = three.call();
        assert!(pool.admit(address("10.0.0.1")).is_none());
        // An IPv6 /64 counts as one address.
        let _six = [pool.admit(address("2001:db8::1")).unwrap(), pool.admit(address("2001:db8::2")).unwrap()];
        let _third = pool.admit(address("2001:db8::3")).unwrap();
        assert_eq!(pool.len(), 5);
    }

    #[test]
    fn a_proxy_on_the_same_machine_may_have_all_places() {
        let pool = pool(4, 1);
        let places: Vec<_> = (0..4).map(|_| Arc::new(pool.admit(address("127.0.0.1")).unwrap())).collect();
        let _calls: Vec<_> = places.iter().map(ConnectionGuard::call).collect();
        assert!(pool.admit(address("127.0.0.1")).is_none());
    }

    #[test]
    fn a_connection_is_silent_then_busy_then_idle() {
        let pool = pool(1, 1);
        let place = Arc::new(pool.admit(address("10.0.0.1")).unwrap());
        assert_eq!(place.in_use(), Use::Silent);
        let call = place.call();
        assert_eq!(place.in_use(), Use::Busy);
        drop(call);
        assert!(matches!(place.in_use(), Use::Idle(_)));
        drop(place);
        assert_eq!(pool.len(), 0);
    }
}
