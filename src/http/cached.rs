//! Cached outcomes from Redis for an evaluation request. Redis is read if the configured read path says so, and while
//! no flags are in memory.

use tokio::time::{Instant, timeout_at};

use crate::attributes::Joined;
use crate::config::ReadPath;
use crate::message::request::{Ask, Subject};
use crate::redis_cache::{self, CachedOutcome, Read};

use super::api::Api;

/// Maximum answers of a request for which Redis is read. A larger request is evaluated without the cache.
pub const MAX_KEPT_ANSWERS: usize = 1_024;
/// Answers per read from Redis.
const PAGE_ANSWERS: usize = 256;
/// Timeout of all reads from Redis for one request.
const READ_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(100);

/// Requests for which Redis is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Decided by the configured read path.
    ReadPath,
    /// Only while no flags are in memory.
    Unready,
}

/// A cached outcome, with the context that it is for.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) outcome: CachedOutcome,
    /// JSON text of the context that tables of attributes completed; `None` if it is the caller's own.
    completed: Option<String>,
}

impl Kept {
    /// Cached outcome for the caller's own context.
    pub(super) fn of_caller(outcome: CachedOutcome) -> Self {
        Self { outcome, completed: None }
    }

    /// The outcome, if it is for the completed context of the answer. A row may have changed since Redis was read.
    pub(super) fn of(&self, joined: Option<&Joined>) -> Option<&CachedOutcome> {
        let completed = joined.map(|joined| joined.json.as_str());
        (self.completed.as_deref() == completed).then_some(&self.outcome)
    }
}

/// Returns one entry per answer, in their order; `None` if Redis has none that is fresh enough. The list is empty if
/// Redis is not read, and shorter than the answers if reading timed out.
pub(super) async fn kept(
    api: &Api,
    when: When,
    environment: &str,
    subjects: &[Subject<'_>],
    asks: &[Ask<'_>],
    min_version: Option<u64>,
) -> Vec<Option<Kept>> {
    let redis_first = when == When::ReadPath && api.config.evaluation.read_path == ReadPath::RedisFirst;
    let wanted = redis_first || !api.store.is_ready();
    // Without flags it is unknown which attributes complete a context.
    let is_unknown = api.attributes.is_some() && !api.store.is_ready();
    let Some(view) = api.view.as_ref().filter(|_| wanted && !is_unknown) else {
        return Vec::new();
    };
    if subjects.len().saturating_mul(asks.len()) > MAX_KEPT_ANSWERS {
        return Vec::new();
    }
    let joined = completed(api, environment, subjects, asks);
    let answers = subjects.iter().flat_map(|subject| asks.iter().map(move |ask| (subject, ask)));
    let all: Vec<_> = answers
        .enumerate()
        .map(|(index, (subject, ask))| {
            let joined = joined.get(index).and_then(Option::as_deref);
            of_call(environment, subject, ask, joined)
        })
        .collect();
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut kept = Vec::with_capacity(all.len());
    for page in all.chunks(PAGE_ANSWERS) {
        let reads = view.reader.read_many(page, min_version.unwrap_or_default());
        let Ok(reads) = timeout_at(deadline, reads).await else { break };
        kept.extend(reads.into_iter().map(Read::hit));
    }
    drop(all);
    let joined = joined.into_iter().chain(std::iter::repeat(None));
    let kept = kept.into_iter().zip(joined);
    kept.map(|(outcome, completed)| Some(Kept { outcome: outcome?, completed })).collect()
}

/// The contexts that tables of attributes complete, one for each answer. Empty without tables.
fn completed(
    api: &Api,
    environment: &str,
    subjects: &[Subject<'_>],
    asks: &[Ask<'_>],
) -> Vec<Option<String>> {
    let Some(attributes) = &api.attributes else { return Vec::new() };
    let snapshot = api.store.load();
    let flags = snapshot.environment(environment).map(AsRef::as_ref);
    let mut completed = Vec::with_capacity(subjects.len() * asks.len());
    for subject in subjects {
        let joiner = attributes.joiner(&subject.context, &subject.context_json);
        completed.extend(asks.iter().map(|ask| joiner.join(flags, &ask.flag).map(|joined| joined.json)));
    }
    completed
}

fn of_call<'c>(
    environment: &'c str,
    subject: &'c Subject<'_>,
    ask: &'c Ask<'_>,
    completed: Option<&'c str>,
) -> redis_cache::Subject<'c> {
    redis_cache::Subject {
        environment,
        flag: &ask.flag,
        user: subject.context.user_id.as_deref(),
        session: subject.context.session_id.as_deref(),
        context: completed.unwrap_or(&subject.context_json),
    }
}
