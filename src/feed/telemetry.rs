//! Telemetry of the feeder: health, metrics and log are updated together, so that they agree.

use std::sync::Arc;
use std::time::Instant;

use chrono::{TimeDelta, Utc};
use tracing::{debug, info};

use crate::clock::OtherClock;
use crate::log_limit::limited;
use crate::message::change::ChangeKind;
use crate::metrics::{EnvironmentLabels, FeedLabels, OutcomeLabels};

use super::Feeder;
use super::definition_writer::label;
use super::election::Received;
use super::fetch::FetchError;
use super::follow::Follow;
use super::health::{EnvironmentHealth, Role};
use super::hint::{Hint, Reading};
use super::source::FlagSource;
impl Feeder {
    pub(super) fn set_role(&self, role: Role) {
        self.health.update(|health| health.role = role);
        self.metrics.feed.leader.set(i64::from(role == Role::Leader));
    }

    pub(super) fn note_leading(&self) {
        info!(instance = self.config.instance, "this instance is the leader of the feeder");
        self.health.update(|health| health.failure = None);
        self.set_role(Role::Leader);
    }

    pub(super) fn note_term_failed(&self, reason: &'static str, message: &str) {
        // A repeated failure is logged only once.
        if self.health.load().failure.as_deref() != Some(message) {
            limited!(
                warn,
                key = reason,
                reason,
                message,
                "this instance lost the leadership of the feeder because of an error; retrying",
            );
        }
        self.health.update(|health| health.failure = Some(message.to_owned()));
        self.count_term(reason);
    }

    pub(super) fn note_failure(&self, flag_source: &FlagSource, error: &FetchError) {
        let environment = flag_source.label();
        let mut news = false;
        self.health.edit(environment, |health| {
            news = health.fail(error.reason(), error.to_string(), Utc::now());
        });
        if news {
            limited!(
                warn,
                key = error.reason(),
                environment,
                reason = error.reason(),
                %error,
                "the source of flags cannot be polled; its flags do not change",
            );
        }
        self.count_poll(flag_source, error.reason());
    }

    pub(super) fn note_held(
        &self,
        flag_source: &FlagSource,
        environment: &str,
        deletions: usize,
        flags: usize,
    ) {
        if self.health.environment(flag_source.label()).held_deletions == 0 {
            limited!(
                warn,
                key = environment,
                environment,
                deletions,
                flags,
                "deletion guard: the response lacks most flags; it is not applied until a second \
                 response confirms it",
            );
        }
        self.health.edit(flag_source.label(), |health| health.held_deletions = deletions);
        self.count_poll(flag_source, "held");
    }

    pub(super) fn note_success(
        &self,
        flag_source: &FlagSource,
        outcome: &'static str,
        more: impl FnOnce(&mut EnvironmentHealth),
    ) {
        let environment = flag_source.label();
        if let Some(ahead) = flag_source.clock_ahead() {
            self.metrics.clock.observe(OtherClock::Unleash, ahead);
        }
        let mut recovered = None;
        let mut refused = 0;
        self.health.edit(environment, |health| {
            health.last_success = Some(Utc::now());
            health.held_deletions = 0;
            recovered = health.error.take();
            more(health);
            refused = health.refused_total;
        });
        if let Some(error) = recovered {
            let since = error.since.to_rfc3339();
            info!(environment, reason = error.reason, since, "the source of flags can be polled again");
        }
        let labels = EnvironmentLabels { environment: Arc::from(environment) };
        self.metrics
            .feed
            .flags_refused
            .get_or_create(&labels)
            .set(i64::try_from(refused).unwrap_or(i64::MAX));
        self.count_poll(flag_source, outcome);
    }

    pub(super) fn note_published(&self, environment: &str, kinds: &[ChangeKind], latency: TimeDelta) {
        let Some(seconds) = latency.to_std().ok().map(|latency| latency.as_secs_f64()) else {
            return;
        };
        for kind in kinds {
            let labels = FeedLabels { environment: Arc::from(environment), outcome: label(*kind) };
            self.metrics.feed.changes.get_or_create(&labels).inc();
        }
        if !kinds.is_empty() {
            self.metrics.feed.propagation.0.observe(seconds);
            info!(environment, changes = kinds.len(), seconds, "changes published");
        }
    }

    /// Adds a hint to the followed ones. Returns the positions of the sources to poll now.
    pub(super) fn note_hint(
        &self,
        follow: &mut Follow,
        Received { reading, offset }: Received,
    ) -> Vec<usize> {
        let outcome = reading.label();
        let hint = match reading {
            Reading::Understood(hint) => hint,
            Reading::NotUnderstood => Hint::default(),
            Reading::TooLarge => {
                follow.skip(offset);
                self.count_hint(outcome);
                return Vec::new();
            }
        };
        let places = follow.hint(&hint, offset, Instant::now());
        self.count_hint(if places.is_empty() { "other_environment" } else { outcome });
        debug!(environment = hint.environment, flag = hint.flag, offset, outcome, "hint");
        places
    }

    fn count_hint(&self, outcome: &'static str) {
        self.metrics.feed.hints.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(super) fn count_term(&self, outcome: &'static str) {
        self.metrics.feed.terms_ended.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    fn count_poll(&self, flag_source: &FlagSource, outcome: &'static str) {
        self.metrics.feed.polls.get_or_create(&self.labels(flag_source, outcome)).inc();
    }

    fn labels(&self, flag_source: &FlagSource, outcome: &'static str) -> FeedLabels {
        FeedLabels { environment: Arc::from(flag_source.label()), outcome }
    }
}
