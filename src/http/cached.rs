//! Cached outcomes from Redis for an evaluation request. Redis is read if the configured read path says so, and while
//! no flags are in memory.

use tokio::time::{Instant, timeout_at};

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

/// Returns one entry per answer, in their order; `None` if Redis has none that is fresh enough. The list is empty if
/// Redis is not read, and shorter than the answers if reading timed out.
pub(super) async fn kept(
    api: &Api,
    when: When,
    environment: &str,
    subjects: &[Subject<'_>],
    asks: &[Ask<'_>],
    min_version: Option<u64>,
) -> Vec<Option<CachedOutcome>> {
    let redis_first = when == When::ReadPath && api.config.evaluation.read_path == ReadPath::RedisFirst;
    let wanted = redis_first || !api.store.is_ready();
    let Some(view) = api.view.as_ref().filter(|_| wanted) else {
        return Vec::new();
    };
    if subjects.len().saturating_mul(asks.len()) > MAX_KEPT_ANSWERS {
        return Vec::new();
    }
    let all: Vec<_> = subjects
        .iter()
        .flat_map(|subject| asks.iter().map(move |ask| of_call(environment, subject, ask)))
        .collect();
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut kept = Vec::with_capacity(all.len());
    for page in all.chunks(PAGE_ANSWERS) {
        let reads = view.reader.read_many(page, min_version.unwrap_or_default());
        let Ok(reads) = timeout_at(deadline, reads).await else { break };
        kept.extend(reads.into_iter().map(Read::hit));
    }
    kept
}

fn of_call<'c>(environment: &'c str, subject: &'c Subject<'_>, ask: &'c Ask<'_>) -> redis_cache::Subject<'c> {
    redis_cache::Subject {
        environment,
        flag: &ask.flag,
        user: subject.context.user_id.as_deref(),
        session: subject.context.session_id.as_deref(),
        context: &subject.context_json,
    }
}
