//! The topics that replies may be sent to: those with an allowed prefix that exist.
//!
//! An undeliverable reply would abort its whole transaction, so the existence of the topic is checked first. Callers
//! choose the names, so the cache is bounded, and no batch waits for a lookup: the partition of a record with a new name
//! waits, and the others go on. All new names among the next records of the partition are looked up in one request. A
//! partition waits for a bounded share of all time. Above that share the lookup continues in the background, and the
//! first replies to a new topic are dropped.

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
/// Minimum interval between lookups that a partition waits for.
const AWAITED_INTERVAL: Duration = Duration::from_millis(100);
/// Upper bound of the time that a partition waits at once. In the long run, it waits for one part in [`WAIT_SHARE`] of
/// all time.
const MAX_WAIT: Duration = Duration::from_secs(5);
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
    /// Names of the lookup in flight.
    asked: Vec<String>,
    last_asked: Option<Instant>,
    /// Partitions that wait for a lookup or have waited for one.
    waits: Vec<Wait>,
}

/// The lookup that a partition waits for, and the time that it may spend waiting.
#[derive(Debug)]
struct Wait {
    partition: i32,
    /// Start of the wait that is under way. `None` if the partition does not wait.
    since: Option<Instant>,
    /// Whether an answer has arrived since the partition's next record was checked.
    is_answered: bool,
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
            asked: Vec::new(),
            last_asked: None,
            waits: Vec::new(),
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

    /// Forgets the lookup in flight, whose answer is lost with its session. Waiting partitions request it again.
    pub fn begin_session(&mut self) {
        self.asked.clear();
        self.waits.iter_mut().for_each(|wait| wait.is_answered = true);
    }

    /// Processes an answer that has arrived, and sends the next lookup if there is one. Waits for nothing.
    pub fn update(&mut self, questions: &mut TopicQuestions, now: Instant) {
        if let Some(answers) = questions.answer() {
            self.learn(answers, now);
        }
        let is_awaited = self.waits.iter().any(|wait| wait.since.is_some());
        let interval = if is_awaited { AWAITED_INTERVAL } else { BACKGROUND_INTERVAL };
        let is_due = self.last_asked.is_none_or(|last| now - last >= interval);
        if !self.wanted.is_empty() && questions.is_ready() && is_due {
            self.asked = std::mem::take(&mut self.wanted);
            questions.ask(&self.asked);
            self.last_asked = Some(now);
        }
    }

    /// Whether names wait to be looked up.
    pub fn has_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Whether a record of `partition` that names `topic` has to wait for a lookup. If so, the lookup is requested.
    pub fn must_wait(&mut self, partition: i32, topic: &str, now: Instant) -> bool {
        let is_open = self.note(topic, now);
        let known = self.waits.iter_mut().find(|wait| wait.partition == partition);
        match known {
            Some(wait) if is_open => wait.go_on(now),
            Some(wait) => {
                wait.end(now);
                false
            }
            None if is_open => {
                let mut wait = Wait::new(partition, now);
                let must_wait = wait.go_on(now);
                self.waits.push(wait);
                must_wait
            }
            None => false,
        }
    }

    /// Whether the partition waits and its next record need not be checked yet.
    pub fn is_waiting(&self, partition: i32, now: Instant) -> bool {
        let wait = self.waits.iter().find(|wait| wait.partition == partition);
        wait.is_some_and(|wait| !wait.is_answered && wait.until().is_some_and(|until| now < until))
    }

    /// Earliest time after `now` at which a partition stops waiting without an answer. `None` if no partition waits.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        self.waits.iter().filter_map(Wait::until).filter(|until| *until > now).min()
    }

    /// Forgets partitions that are not assigned any more.
    pub fn retain(&mut self, assigned: &[i32]) {
        self.waits.retain(|wait| assigned.contains(&wait.partition));
    }

    /// Adds a name to the next lookup if necessary. Returns whether a reply to it has to wait for the answer.
    pub fn note(&mut self, name: &str, now: Instant) -> bool {
        if !self.is_allowed(name) {
            return false;
        }
        let (is_new, is_due) = match (self.existing.get(name), self.missing.get(name)) {
            (Some(asked), _) => (false, now - *asked >= USABLE_TTL),
            (None, Some(asked)) => (true, now - *asked >= MISSING_TTL),
            (None, None) => (true, true),
        };
        let is_known = |names: &[String]| names.iter().any(|known| known == name);
        let has_room = self.wanted.len() < MAX_ASKED_COUNT;
        if is_due && has_room && !is_known(&self.wanted) && !is_known(&self.asked) {
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
        // Names without a conclusive answer are looked up again.
        self.asked.clear();
        self.waits.iter_mut().for_each(|wait| wait.is_answered = true);
    }

    fn is_allowed(&self, topic: &str) -> bool {
        let allowed = self.allowed_prefixes.iter().any(|prefix| topic.starts_with(prefix.as_str()));
        allowed && !self.own.iter().any(|own| own == topic) && is_topic_name(topic)
    }
}

impl Wait {
    fn new(partition: i32, now: Instant) -> Self {
        Self { partition, since: None, is_answered: false, allowance: (MAX_WAIT, now) }
    }

    /// Starts or continues a wait. Returns `false` once the allowance is spent.
    fn go_on(&mut self, now: Instant) -> bool {
        self.is_answered = false;
        if self.since.is_none() {
            let (left, at) = self.allowance;
            let left = (left + now.saturating_duration_since(at) / WAIT_SHARE).min(MAX_WAIT);
            self.allowance = (left, now);
            self.since = Some(now);
        }
        let must_wait = self.until().is_some_and(|until| now < until);
        if !must_wait {
            self.end(now);
        }
        must_wait
    }

    /// Ends a wait, and subtracts it from the allowance.
    fn end(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            let spent = now.saturating_duration_since(since);
            self.allowance = (self.allowance.0.saturating_sub(spent), now);
        }
    }

    /// Time at which the wait under way ends at the latest.
    fn until(&self) -> Option<Instant> {
        self.since.map(|since| since + self.allowance.0)
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
