//! Which topics may be replied to: those with an allowed prefix that exist.
//!
//! A reply that cannot be delivered would take its whole transaction down, so existence is asked for first.
//! What is known is kept for a while, and for at most `MAX_TOPICS_COUNT` topics: strangers choose the names.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;

const MAX_TOPICS_COUNT: usize = 1_000;
/// For how long a topic that exists is taken to exist.
const USABLE_TTL: Duration = Duration::from_secs(60);
/// For how long a topic that does not exist is not asked for again.
const MISSING_TTL: Duration = Duration::from_secs(5);
/// For how long a topic that refused a reply is left alone.
const BANNED_TTL: Duration = Duration::from_secs(60);

/// Asks the broker whether a topic exists: `Some(false)` for no, `None` if there is no answer.
pub type Exists = Arc<dyn Fn(&str) -> Option<bool> + Send + Sync>;

/// What is known of reply topics.
pub struct ReplyTopics {
    allowed_prefixes: Vec<String>,
    own: Vec<String>,
    known: AHashMap<String, (Result<(), &'static str>, Instant)>,
    exists: Exists,
}

impl std::fmt::Debug for ReplyTopics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyTopics").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl ReplyTopics {
    /// `own` topics are never replied to, whatever the prefixes say.
    pub fn new(allowed_prefixes: Vec<String>, own: Vec<String>, exists: Exists) -> Self {
        Self { allowed_prefixes, own, known: AHashMap::new(), exists }
    }

    /// Whether a reply may be sent to `topic`, or the reason why not.
    pub fn check(&mut self, topic: &str) -> Result<(), &'static str> {
        let allowed = self.allowed_prefixes.iter().any(|prefix| topic.starts_with(prefix.as_str()));
        if !allowed || self.own.iter().any(|own| own == topic) || !is_topic_name(topic) {
            return Err("topic_not_allowed");
        }
        match self.known.get(topic) {
            Some((usable, until)) if Instant::now() < *until => *usable,
            _ => match (self.exists)(topic) {
                Some(true) => self.remember(topic, Ok(()), USABLE_TTL),
                Some(false) => self.remember(topic, Err("topic_unknown"), MISSING_TTL),
                // Not remembered: the broker may be back for the next one. A topic that was there is there still.
                None => match self.known.get(topic) {
                    Some((Ok(()), _)) => Ok(()),
                    _ => Err("topic_unknown"),
                },
            },
        }
    }

    /// The topic refused a reply although it exists.
    pub fn ban(&mut self, topic: &str) {
        let _ = self.remember(topic, Err("refused"), BANNED_TTL);
    }

    fn remember(
        &mut self,
        topic: &str,
        usable: Result<(), &'static str>,
        ttl: Duration,
    ) -> Result<(), &'static str> {
        if self.known.len() >= MAX_TOPICS_COUNT {
            self.known.clear();
        }
        self.known.insert(topic.to_owned(), (usable, Instant::now() + ttl));
        usable
    }
}

/// Kafka's rule for topic names.
fn is_topic_name(topic: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&topic.len()) && topic != "." && topic != ".." && topic.chars().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn topics(answer: Option<bool>) -> (ReplyTopics, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let exists: Exists = Arc::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            answer
        });
        let own = vec!["replies-own".to_owned()];
        (ReplyTopics::new(vec!["replies".to_owned()], own, exists), asked)
    }

    #[test]
    fn a_topic_that_was_there_is_there_while_the_broker_says_nothing() {
        let (mut topics, asked) = topics(None);
        topics.known.insert("replies-a".to_owned(), (Ok(()), Instant::now()));
        assert_eq!(topics.check("replies-a"), Ok(()));
        assert_eq!(topics.check("replies-b"), Err("topic_unknown"));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn only_allowed_names_are_asked_for() {
        let (mut topics, asked) = topics(Some(true));
        for name in ["events", "replies-own", "replies/x", "replies x", "", &"replies".repeat(40)] {
            assert_eq!(topics.check(name), Err("topic_not_allowed"), "{name}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        assert_eq!(topics.check("replies-a"), Ok(()));
        assert_eq!(topics.check("replies-a"), Ok(()));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn missing_topics_are_remembered_and_bans_hold() {
        let (mut topics, asked) = topics(Some(false));
        assert_eq!(topics.check("replies-a"), Err("topic_unknown"));
        assert_eq!(topics.check("replies-a"), Err("topic_unknown"));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        topics.ban("replies-b");
        assert_eq!(topics.check("replies-b"), Err("refused"));
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let (mut topics, _) = topics(Some(false));
        for n in 0..MAX_TOPICS_COUNT * 3 {
            let _ = topics.check(&format!("replies-{n}"));
        }
        assert!(topics.known.len() <= MAX_TOPICS_COUNT);
    }
}
