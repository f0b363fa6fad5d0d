//! What Redis has of the answers to a call: asked first where the read path says so, and while there are no flags in
//! memory.

use tokio::time::{Instant, timeout_at};

use crate::config::ReadPath;
use crate::message::request::{Ask, Subject};
use crate::warm::{self, Read, Warm};

use super::api::Api;

/// More answers than this are not looked for in Redis.
pub const MAX_KEPT_ANSWERS: usize = 1_024;
/// Read at once.
const PAGE_ANSWERS: usize = 256;
/// For all of a call.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);

/// Which calls look into Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// As the read path says.
    ReadPath,
    /// Only while there are no flags in memory.
    Unready,
}

/// One for each answer, in their order; none at all where Redis is not asked.
pub(super) async fn kept(
    api: &Api,
    when: When,
    environment: &str,
    subjects: &[Subject<'_>],
    asks: &[Ask<'_>],
    min_version: Option<u64>,
) -> Vec<Option<Warm>> {
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
    let deadline = Instant::now() + PATIENCE;
    let mut kept = Vec::with_capacity(all.len());
    for page in all.chunks(PAGE_ANSWERS) {
        let reads = view.reader.read_many(page, min_version.unwrap_or_default());
        let Ok(reads) = timeout_at(deadline, reads).await else { break };
        kept.extend(reads.into_iter().map(Read::hit));
    }
    kept
}

fn of_call<'c>(environment: &'c str, subject: &'c Subject<'_>, ask: &'c Ask<'_>) -> warm::Subject<'c> {
    warm::Subject {
        environment,
        flag: &ask.flag,
        user: subject.context.user_id.as_deref(),
        session: subject.context.session_id.as_deref(),
        context: &subject.context_json,
    }
}
