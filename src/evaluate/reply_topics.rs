//! Which topics may be replied to: those with an allowed prefix that exist.
//!
//! A reply that cannot be delivered would take its whole transaction down, so existence is asked for first. The names are
//! chosen by strangers: what is known of them is bounded, all new names of a fetch are asked for in one question, and the
//! time spent waiting for answers is a bounded share of all time. Beyond it the question goes on in the background, and the
//! first replies to a new topic are dropped.

use std::time::{Duration, Instant};

use ahash::AHashMap;

use crate::kafka::exists::{TopicAnswer, TopicQuestions};

/// Most topics that are remembered of each kind: those that exist, those that do not, and those that refused a reply.
const MAX_TOPICS_COUNT: usize = 1_000;
/// Most names of one question.
const MAX_ASKED_COUNT: usize = 500;
/// After how long it is asked again whether a topic still exists; it counts as existing meanwhile.
const USABLE_TTL: Duration = Duration::from_secs(60);
/// For how long a topic that does not exist is not asked for again.
const MISSING_TTL: Duration = Duration::from_secs(2);
/// For how long a topic that refused a reply gets none.
const BANNED_TTL: Duration = Duration::from_secs(60);
/// Between two questions that nobody waits for.
const BACKGROUND_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for answers at once, and the share of all time (one in so many) that is spent waiting in the long run.
const MAX_WAIT: Duration = Duration::from_secs(1);
const WAIT_SHARE: u32 = 10;

/// What is known of reply topics.
#[derive(Debug)]
pub struct ReplyTopics {
    allowed_prefixes: Vec<String>,
    own: Vec<String>,
    /// By name: when the broker said so.
    existing: AHashMap<String, Instant>,
    missing: AHashMap<String, Instant>,
    /// By name: when a reply was refused.
    banned: AHashMap<String, Instant>,
    /// To be asked for next.
    wanted: Vec<String>,
    last_asked: Option<Instant>,
    /// How long answers may be waited for, as of a moment.
    allowance: (Duration, Instant),
}

impl ReplyTopics {
    /// `own` topics are never replied to, whatever the prefixes say.
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

    /// The topic refused a reply although it exists.
    pub fn ban(&mut self, topic: &str) {
        remember(&mut self.banned, topic, Instant::now());
    }

    /// Learns what is asked for and answered by now, and asks for what is not known of `names`, those of one fetch. Answers are
    /// waited for within bounds.
    pub fn look_up<'n>(&mut self, names: impl IntoIterator<Item = &'n str>, questions: &mut TopicQuestions) {
        let started = Instant::now();
        self.learn(questions.answer(Duration::ZERO).unwrap_or_default(), started);
        let is_new = names.into_iter().fold(false, |is_new, name| self.note(name, started) | is_new);
        if self.wanted.is_empty() {
            return;
        }
        let patience = if is_new { self.patience(started) } else { Duration::ZERO };
        if questions.is_open() && !patience.is_zero() {
            // One that was asked in the background.
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

    /// Takes note of a name; whether a reply to it has to wait for an answer.
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

    /// How long answers may be waited for now.
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

/// What is remembered of strangers' names must not grow; forgetting them only costs a question.
fn remember(known: &mut AHashMap<String, Instant>, name: &str, now: Instant) {
    if known.len() >= MAX_TOPICS_COUNT && !known.contains_key(name) {
        known.clear();
    }
    known.insert(name.to_owned(), now);
}

/// Kafka's rule for topic names.
fn is_topic_name(topic: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&topic.len()) && topic != "." && topic != ".." && topic.chars().all(legal)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "reply_topics_tests.rs"]
mod tests;
