//! Increasing delays between attempts.

use std::time::Duration;

use rand::Rng;

/// Delays that double with every attempt, up to a maximum, until an attempt succeeds.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The first delay is `first`, and no delay is longer than `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The delay before the next attempt. The following one is twice as long.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(self.longest);
        delay
    }

    /// Like [`delay`](Self::delay), shortened at random by up to a half, so that callers which failed together do not
    /// retry together.
    pub fn jittered(&mut self) -> Duration {
        self.delay().mul_f64(rand::rng().random_range(0.5..1.0))
    }

    /// Starts again with the first delay, after an attempt that succeeded.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_millis(300);

    #[test]
    fn delays_double_up_to_the_longest_and_start_again_after_success() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let delays: Vec<_> = (0..5).map(|_| backoff.delay().as_millis()).collect();
        assert_eq!(delays, [50, 100, 200, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.delay(), FIRST);
    }

    #[test]
    fn jitter_shortens_a_delay_by_at_most_a_half() {
        let mut backoff = Backoff::new(FIRST, FIRST);
        assert!((0..1_000).all(|_| (FIRST / 2..=FIRST).contains(&backoff.jittered())));
    }

    #[test]
    fn the_longest_possible_delay_does_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!((backoff.delay(), backoff.delay()), (Duration::MAX, Duration::MAX));
    }
}
