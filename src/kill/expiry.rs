//! Maintenance of existing kill switches: records expiries, renews switches that a definition has overtaken,
//! and removes switches that no longer matter. It runs in every instance with a feeder; only the first
//! instance finds something to write.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use rand::Rng;
use tracing::info;

use crate::clock::ClockSkew;
use crate::log_limit::limited;
use crate::message::kill_switch::KillSwitch;
use crate::shutdown::Shutdown;

use super::writer::{Action, is_expired, is_forgettable, is_overtaken};
use super::{KillSwitches, Turn};

/// Interval at which the switches in force are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Maximum random delay before a write, so that the instances do not all write at once.
const JITTER: Duration = Duration::from_millis(500);
/// Pause after a failure.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

impl KillSwitches {
    /// Maintains the switches until `shutdown`. While the clock is doubtful, another instance has to record expiries.
    pub async fn keep(&self, clock: &ClockSkew, shutdown: &Shutdown) {
        let mut pause = POLL_INTERVAL;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = match self.due(clock) {
                None => POLL_INTERVAL,
                Some(_) => {
                    let jitter = JITTER.mul_f64(rand::rng().random());
                    tokio::time::sleep(jitter).await;
                    self.keep_one(clock).await
                }
            };
        }
    }

    /// Performs the action that is still due after the jitter. Returns the pause until the next check.
    async fn keep_one(&self, clock: &ClockSkew) -> Duration {
        let Some((switch, action)) = self.due(clock) else {
            return POLL_INTERVAL;
        };
        let KillSwitch { environment, flag_name: flag, actor, reason, .. } = &switch;
        match self.write(Turn { environment, flag, actor, reason }, action).await {
            Ok(written) => {
                let version = written.map(|switch| switch.version);
                info!(environment, flag, ?action, version, "kill switch maintained");
                self.wait_for(version).await;
                Duration::ZERO
            }
            Err(error) => {
                limited!(
                    warn,
                    environment,
                    flag,
                    ?action,
                    %error,
                    "maintenance of a kill switch failed; retrying",
                );
                CHECK_INTERVAL
            }
        }
    }

    /// Waits until the change is in force here, so that it is not found due again.
    async fn wait_for(&self, version: Option<u64>) {
        let deadline = tokio::time::Instant::now() + CHECK_INTERVAL;
        match version {
            Some(version) => drop(self.store.wait_for_version(version, deadline).await),
            // A tombstone has no version that comes into force.
            None => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }

    /// The first switch that requires an action, with the action.
    fn due(&self, clock: &ClockSkew) -> Option<(KillSwitch, Action)> {
        if !self.store.is_ready() {
            return None;
        }
        let (switches, snapshot, now) = (self.store.switches(), self.store.load(), Utc::now());
        let missing = Arc::clone(&self.store.missing().borrow());
        let lost = missing.switches.iter().find_map(|key| switches.get(key));
        if let Some(lost) = lost {
            return Some((KillSwitch::clone(lost), Action::Reinstate));
        }
        // What this instance writes is in force everywhere, so a wrong clock must not end a switch early.
        let is_doubtful = clock.is_doubtful();
        switches.values().find_map(|switch| {
            let flags = snapshot.environment(&switch.environment);
            let flag = flags.and_then(|flags| flags.get(&switch.flag_name));
            let definition = flag.map(|flag| flag.definition_version);
            let action = if !is_doubtful && is_expired(switch, now) {
                Action::Expire
            } else if is_overtaken(switch, definition) {
                Action::Renew
            } else if !is_doubtful && is_forgettable(switch, definition, now) {
                Action::Forget
            } else {
                return None;
            };
            Some((KillSwitch::clone(switch), action))
        })
    }
}
