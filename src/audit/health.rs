//! Health of one sink pipeline: the state of its writer, and notices that an operator has to see.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::health::{Report, Reporter, State};

/// How long health reports a past event, such as lost records.
const NOTICE_TTL: Duration = Duration::from_secs(600);
/// Upper bound of notices; the oldest are dropped first.
const MAX_NOTICES_COUNT: usize = 16;

/// Reports the state of a pipeline together with its notices. A working pipeline with notices is `degraded`.
#[derive(Debug)]
pub struct PipelineHealth {
    reporter: Reporter,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// State that the writer or the pipeline reported last.
    state: State,
    detail: Option<String>,
    notices: VecDeque<Notice>,
}

#[derive(Debug)]
struct Notice {
    /// A later notice of the same subject replaces this one.
    subject: String,
    text: String,
    /// Expiry of the notice. `None`: it stays until it is withdrawn.
    until: Option<Instant>,
}

impl PipelineHealth {
    pub fn new(reporter: Reporter) -> Self {
        let inner = Inner { state: State::Starting, detail: None, notices: VecDeque::new() };
        Self { reporter, inner: Mutex::new(inner) }
    }

    pub fn up(&self) {
        self.change(|inner| (inner.state, inner.detail) = (State::Up, None));
    }

    pub fn degraded(&self, detail: impl ToString) {
        self.change(|inner| (inner.state, inner.detail) = (State::Degraded, Some(detail.to_string())));
    }

    pub fn down(&self, detail: impl ToString) {
        self.change(|inner| (inner.state, inner.detail) = (State::Down, Some(detail.to_string())));
    }

    /// Reports a past event for ten minutes.
    pub fn notice(&self, subject: impl Into<String>, text: impl Into<String>) {
        self.enter(subject.into(), text.into(), Some(Instant::now() + NOTICE_TTL));
    }

    /// Reports an ongoing condition, until `None` is passed for the same subject.
    pub fn condition(&self, subject: &str, text: Option<String>) {
        match text {
            Some(text) => self.enter(subject.to_owned(), text, None),
            None => self.change(|inner| inner.notices.retain(|notice| notice.subject != subject)),
        }
    }

    /// Removes expired notices. Must be called about once a second.
    pub fn refresh(&self) {
        self.change(|_| {});
    }

    fn enter(&self, subject: String, text: String, until: Option<Instant>) {
        self.change(|inner| {
            inner.notices.retain(|notice| notice.subject != subject);
            if inner.notices.len() >= MAX_NOTICES_COUNT {
                inner.notices.pop_front();
            }
            inner.notices.push_back(Notice { subject, text, until });
        });
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        // Reported under the lock, so that an older report never replaces a newer one.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut inner);
        self.reporter.set(inner.report(Instant::now()));
    }
}

impl Inner {
    fn report(&mut self, now: Instant) -> Report {
        self.notices.retain(|notice| notice.until.is_none_or(|until| until > now));
        let texts = self.detail.iter().chain(self.notices.iter().map(|notice| &notice.text));
        let texts: Vec<&str> = texts.map(String::as_str).collect();
        let state = match self.state {
            State::Up if !self.notices.is_empty() => State::Degraded,
            state => state,
        };
        let report = Report::new(state);
        if texts.is_empty() { report } else { report.detail(texts.join("; ")) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::health::Registry;

    #[test]
    fn a_lane_that_works_is_degraded_while_it_has_notices() {
        let registry = Registry::new("i");
        let health = PipelineHealth::new(registry.reporter("sink", false));
        let report = || registry.overview().parts["sink"].report.clone();
        assert_eq!(report().state, State::Starting);
        health.up();
        health.notice("events/0", "5 events were removed");
        assert_eq!(
            (report().state, report().detail.as_deref()),
            (State::Degraded, Some("5 events were removed"))
        );
        health.condition("clock", Some("a clock is wrong".to_owned()));
        health.down("no database");
        let detail = "no database; 5 events were removed; a clock is wrong";
        assert_eq!((report().state, report().detail.as_deref()), (State::Down, Some(detail)));
        health.up();
        health.condition("clock", None);
        let later = Instant::now() + NOTICE_TTL * 2;
        let report = health.inner.lock().unwrap().report(later);
        assert_eq!((report.state, report.detail), (State::Up, None));
    }

    #[test]
    fn notices_are_bounded_and_the_same_subject_is_reported_once() {
        let registry = Registry::new("i");
        let health = PipelineHealth::new(registry.reporter("sink", false));
        for partition in 0..100 {
            health.notice(format!("events/{partition}"), format!("first {partition}"));
            health.notice(format!("events/{partition}"), format!("second {partition}"));
        }
        let detail = registry.overview().parts["sink"].report.detail.clone().unwrap();
        assert_eq!(detail.matches("second").count(), MAX_NOTICES_COUNT);
        assert!(!detail.contains("first"), "{detail}");
    }
}
