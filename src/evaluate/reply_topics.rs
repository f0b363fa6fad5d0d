//! The topics that replies may be sent to: those with an allowed prefix that exist.
//!
//! An undeliverable reply would abort its whole transaction, so the existence of the topic is checked first. Callers
//! choose the names, so the cache is bounded, all new names of a fetch are looked up in one request, and the time spent
//! waiting for metadata is a bounded share of all time. Above that share the lookup continues in the background, and
//! the first replies to a new topic are dropped.

use std::time::{Duration, Instant};

use ahash::AHashMap;

use crate::kafka::exists::{TopicAnswer, TopicQuestions};

/// Size limit of each cache: existing topics, missing topics, and topics that rejected a reply.
const MAX_TOPICS_COUNT: usize = 1_000;
/// Maximum number of names in one lookup.
const MAX_ASKED_COUNT: usize = 500;
/// Age at which an existing topic is looked up again. It counts as existing until the answer arrives.
const USABLE_TTL: Duration = Duration::from_secs(60);
/// How long a missing topic is not looked up again.
const MISSING_TTL: Duration = Duration::from_secs(2);
/// How long no replies are sent to a topic that rejected one.
const BANNED_TTL: Duration = Duration::from_secs(60);
/// Minimum interval between background lookups.
const BACKGROUND_INTERVAL: Duration = Duration::from_secs(1);
/// Upper bound of the time spent waiting at once. In the long run, one part in [`WAIT_SHARE`] of all time is spent
/// waiting.
const MAX_WAIT: Duration = Duration::from_secs(1);
const WAIT_SHARE: u32 = 10;

/// Cached knowledge about reply topics.
#[derive(Debug)]
pub struct ReplyTopics {
    allowed_prefixes: Vec<String>,
    own: Vec<String>,
    /// Existing topics by name, with the time of the broker's answer.
    existing: AHashMap<String, Instant>,
    missing: AHashMap<String, Instant>,
    /// Topics that rejected a reply, by name, with the time of the rejection.
    banned: AHashMap<String, Instant>,
    /// Names for the next lookup.
    wanted: Vec<String>,
    last_asked: Option<Instant>,
    /// Remaining time that may be spent waiting, and the time at which it was computed.
    allowance: (Duration, Instant),
}

impl ReplyTopics {
    /// Creates an empty cache. Replies to `own` topics are never sent, even if a prefix allows them.
    pub fn new(allowed_prefixes: Vec<String>, own: Vec<String>) -> Self {
        Self {
            allowed_prefixes,
            own,
            existing: AHashMap::new(),
            missing: AHashMap::new(),
            banned: AHashMap::new(),
            wanted: Vec::new(),
            last_asked: None,
            allowance: (MAX_WAIT, Instant::now()),
        }
    }

    /// Whether a reply may be sent to `topic`, or the reason why not.
    pub fn check(&self, topic: &str) -> Result<(), &'static str> {
        if !self.is_allowed(topic) {
            Err("topic_not_allowed")
        } else if self.banned.get(topic).is_some_and(|since| since.elapsed() < BANNED_TTL) {
            Err("refused")
        } else if self.existing.contains_key(topic) {
            Ok(())
        } else {
            Err("topic_unknown")
        }
    }

    /// Stops replies to the topic for a while, because it rejected one although it exists.
    pub fn ban(&mut self, topic: &str) {
        remember(&mut self.banned, topic, Instant::now());
    }

    /// Processes arrived answers and looks up the unknown ones among `names`, the reply topics of one fetch. Waits for
    /// answers only within the allowance.
    pub fn look_up<'n>(&mut self, names: impl IntoIterator<Item = &'n str>, questions: &mut TopicQuestions) {
        let started = Instant::now();
        self.learn(questions.answer(Duration::ZERO).unwrap_or_default(), started);
        let is_new = names.into_iter().fold(false, |is_new, name| self.note(name, started) | is_new);
        if self.wanted.is_empty() {
            return;
        }
        let patience = if is_new { self.patience(started) } else { Duration::ZERO };
        if questions.is_open() && !patience.is_zero() {
            // A lookup that was started in the background.
            self.learn(questions.answer(patience).unwrap_or_default(), Instant::now());
        }
        let is_due = self.last_asked.is_none_or(|last| started - last >= BACKGROUND_INTERVAL);
        if questions.is_open() || (patience.is_zero() && !is_due) {
            return;
        }
        questions.ask(&std::mem::take(&mut self.wanted));
        self.last_asked = Some(started);
        if let Some(left) = patience.checked_sub(started.elapsed()).filter(|_| is_new) {
            self.learn(questions.answer(left).unwrap_or_default(), Instant::now());
            self.spend(started.elapsed());
        }
    }

    /// Adds a name to the next lookup if necessary. Returns whether a reply to it has to wait for the answer.
    fn note(&mut self, name: &str, now: Instant) -> bool {
        if !self.is_allowed(name) {
            return false;
        }
        let (is_new, is_due) = match (self.existing.get(name), self.missing.get(name)) {
            (Some(asked), _) => (false, now - *asked >= USABLE_TTL),
            (None, Some(asked)) => (true, now - *asked >= MISSING_TTL),
            (None, None) => (true, true),
        };
        if is_due && self.wanted.len() < MAX_ASKED_COUNT && !self.wanted.iter().any(|known| known == name) {
            self.wanted.push(name.to_owned());
        }
        is_new && is_due
    }

    fn learn(&mut self, answers: Vec<TopicAnswer>, now: Instant) {
        for TopicAnswer { name, exists } in answers {
            let (to, from) = match exists {
                true => (&mut self.existing, &mut self.missing),
                false => (&mut self.missing, &mut self.existing),
            };
            from.remove(&name);
            remember(to, &name, now);
        }
    }

    /// How long the caller may wait for answers now.
    fn patience(&mut self, now: Instant) -> Duration {
        let (left, since) = self.allowance;
        let left = (left + now.saturating_duration_since(since) / WAIT_SHARE).min(MAX_WAIT);
        self.allowance = (left, now);
        left
    }

    fn spend(&mut self, spent: Duration) {
        self.allowance.0 = self.allowance.0.saturating_sub(spent);
    }

    fn is_allowed(&self, topic: &str) -> bool {
        let allowed = self.allowed_prefixes.iter().any(|prefix| topic.starts_with(prefix.as_str()));
        allowed && !self.own.iter().any(|own| own == topic) && is_topic_name(topic)
    }
}

/// Inserts a name. Callers choose the names, so a full cache is cleared; the only cost is a new lookup.
fn remember(known: &mut AHashMap<String, Instant>, name: &str, now: Instant) {
    if known.len() >= MAX_TOPICS_COUNT && !known.contains_key(name) {
        known.clear();
    }
    known.insert(name.to_owned(), now);
}

/// Whether the name is valid by Kafka's rule for topic names.
fn is_topic_name(topic: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&topic.len()) && topic != "." && topic != ".." && topic.chars().all(legal)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "reply_topics_tests.rs"]
mod tests;
