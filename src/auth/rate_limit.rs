//! Rate limits per token, and per address for requests without a token. Each instance counts separately.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{DefaultDirectRateLimiter, InsufficientCapacity, NotUntil, Quota, RateLimiter};

/// Maximum addresses that are counted separately. While there are more, further requests share one counter.
const ADDRESSES_MAX: usize = 65_536;
/// Minimum interval between removals of idle addresses.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// Rate limit of one token; `None`: unlimited.
#[derive(Debug)]
pub(super) struct RateLimit(Option<DefaultDirectRateLimiter>);

/// Rate limit per address: requests without a token, their answers, or wrong tokens. `None`: unlimited.
#[derive(Debug)]
pub struct Addresses(Option<Counted>);

#[derive(Debug)]
struct Counted {
    one_by_one: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock, NoOpMiddleware>,
    together: DefaultDirectRateLimiter,
    forgotten: Mutex<Instant>,
}

/// The rate limit is exceeded. Holds the time after which a retry can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFast(pub Duration);

/// Reason why a request for several answers is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMuch {
    Now(TooFast),
    /// More answers than the limit per second in one request, which is never allowed. Holds the limit.
    Ever(u32),
}

impl TooFast {
    /// Value for `Retry-After`, in whole seconds, rounded up.
    pub fn seconds(self) -> u32 {
        u32::try_from(self.0.as_secs()).unwrap_or(u32::MAX).saturating_add(1)
    }
}

impl RateLimit {
    pub(super) fn new(calls_per_second: Option<NonZeroU32>) -> Self {
        Self(calls_per_second.map(|rate| RateLimiter::direct(Quota::per_second(rate))))
    }

    pub(super) fn check(&self) -> Result<(), TooFast> {
        self.0.as_ref().map_or(Ok(()), |limiter| limiter.check().map_err(too_fast))
    }
}

impl Addresses {
    pub fn new(calls_per_second: Option<NonZeroU32>) -> Self {
        Self(calls_per_second.map(|rate| Counted {
            one_by_one: RateLimiter::hashmap(Quota::per_second(rate)),
            together: RateLimiter::direct(Quota::per_second(rate)),
            forgotten: Mutex::new(Instant::now()),
        }))
    }

    /// Counts one request from this address.
    pub fn check(&self, address: Option<IpAddr>) -> Result<(), TooFast> {
        let Some(counted) = &self.0 else { return Ok(()) };
        match address.filter(|_| counted.has_room()) {
            Some(address) => counted.one_by_one.check_key(&network(address)).map_err(too_fast),
            None => counted.together.check().map_err(too_fast),
        }
    }

    /// Counts `count` answers for this address, all or none.
    pub fn check_many(&self, address: Option<IpAddr>, count: NonZeroU32) -> Result<(), TooMuch> {
        let Some(counted) = &self.0 else { return Ok(()) };
        let checked = match address.filter(|_| counted.has_room()) {
            Some(address) => {
                counted.one_by_one.check_key_n(&network(address), count).map(|now| now.map_err(too_fast))
            }
            None => counted.together.check_n(count).map(|now| now.map_err(too_fast)),
        };
        match checked {
            Ok(now) => now.map_err(TooMuch::Now),
            Err(InsufficientCapacity(most)) => Err(TooMuch::Ever(most)),
        }
    }
}

impl Counted {
    fn has_room(&self) -> bool {
        if self.one_by_one.len() < ADDRESSES_MAX {
            return true;
        }
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        if forgotten.elapsed() >= FORGET_INTERVAL {
            self.one_by_one.retain_recent();
            *forgotten = Instant::now();
        }
        self.one_by_one.len() < ADDRESSES_MAX
    }
}

fn too_fast(until: NotUntil<<DefaultClock as Clock>::Instant>) -> TooFast {
    TooFast(until.wait_time_from(DefaultClock::default().now()))
}

/// Address that a caller is counted by. IPv6 addresses are reduced to their /64, since the owner of one address usually
/// controls the whole /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_token_and_each_address_has_a_pace_of_its_own() {
        let rate = NonZeroU32::new(1);
        let (one, other) = (RateLimit::new(rate), RateLimit::new(rate));
        assert_eq!(one.check(), Ok(()));
        let TooFast(wait) = one.check().unwrap_err();
        assert!(wait <= Duration::from_secs(1));
        assert_eq!(other.check(), Ok(()));
        let addresses = Addresses::new(rate);
        let at = |text: &str| addresses.check(Some(text.parse().unwrap()));
        assert_eq!(at("10.0.0.1"), Ok(()));
        assert!(at("10.0.0.1").is_err() && at("::ffff:10.0.0.1").is_err());
        assert_eq!(at("10.0.0.2"), Ok(()));
        assert_eq!(at("2001:db8::1"), Ok(()));
        assert!(at("2001:db8::2").is_err());
        assert_eq!(at("2001:db8:0:1::2"), Ok(()));
    }

    #[test]
    fn answers_are_counted_and_not_calls() {
        let addresses = Addresses::new(NonZeroU32::new(100));
        let ask = |from: &str, count| {
            addresses.check_many(Some(from.parse().unwrap()), NonZeroU32::new(count).unwrap())
        };
        assert_eq!(ask("10.0.0.1", 60), Ok(()));
        assert!(matches!(ask("10.0.0.1", 60), Err(TooMuch::Now(_))));
        assert_eq!(ask("10.0.0.1", 30), Ok(()), "what was refused was not counted");
        assert_eq!(ask("10.0.0.2", 100), Ok(()));
        assert_eq!(ask("10.0.0.3", 101), Err(TooMuch::Ever(100)));
    }

    #[test]
    fn a_flood_of_addresses_is_counted_as_one() {
        // At this rate, no address becomes idle during the test.
        let addresses = Addresses(Some(Counted {
            one_by_one: RateLimiter::hashmap(Quota::per_minute(NonZeroU32::MIN)),
            together: RateLimiter::direct(Quota::per_minute(NonZeroU32::MIN)),
            forgotten: Mutex::new(Instant::now()),
        }));
        let address = |n: usize| Some(IpAddr::from(u32::try_from(n).unwrap().to_be_bytes()));
        let taken = (0..ADDRESSES_MAX + 1_000).filter(|n| addresses.check(address(*n)).is_ok()).count();
        assert_eq!(taken, ADDRESSES_MAX + 1);
        assert_eq!(addresses.0.as_ref().unwrap().one_by_one.len(), ADDRESSES_MAX);
    }

    #[test]
    fn without_a_setting_there_is_no_limit() {
        let (rate_limit, addresses) = (RateLimit::new(None), Addresses::new(None));
        assert!((0..1_000).all(|_| rate_limit.check().is_ok() && addresses.check(None).is_ok()));
    }
}
