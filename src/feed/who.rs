//! Authors of changes in Unleash: from the hint of its webhook, or from its event log if an Admin API token
//! is configured.

use std::time::Duration;

use chrono::DateTime;
use tokio::time::timeout;
use tracing::debug;

use crate::message::definition::Source;

use super::Feeder;
use super::diff::{Diff, PlannedChange};
use super::follow::Follow;
use super::source::FlagSource;

/// Maximum number of changes whose authors are looked up. More changes at once are an import or a first sync,
/// for which the delay is not justified.
const ASKED_FLAGS_MAX: usize = 20;
/// Timeout of all look-ups for one response; it limits the delay of publication.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

impl Feeder {
    /// Sets the actors of a response's changes as far as they can be determined.
    pub(super) async fn attribute(&self, place: usize, diff: &mut Diff, follow: &Follow) {
        let Some(FlagSource::Unleash(flag_source)) = self.flag_sources.get(place) else { return };
        let unknown = |change: &PlannedChange| change.actor.is_none() && change.source == Source::Unleash;
        for change in diff.changes.iter_mut().filter(|change| unknown(change)) {
            change.actor = follow.actor(place, &change.flag).map(str::to_owned);
        }
        let Some(token) = &self.config.unleash.admin_token else { return };
        if diff.changes.len() > ASKED_FLAGS_MAX {
            return;
        }
        let asking = async {
            for change in diff.changes.iter_mut().filter(|change| unknown(change)) {
                match flag_source.last_change(token, &change.flag).await {
                    Ok(Some(last)) if is_later(last.at, change.previous_version) => {
                        change.actor = Some(last.by)
                    }
                    Ok(_) => {}
                    Err(error) => {
                        return debug!(flag = change.flag, %error, "Unleash did not report who made a change");
                    }
                }
            }
        };
        // Changes without an author by then are attributed to "unleash".
        let _ = timeout(ASK_TIMEOUT, asking).await;
    }
}

/// Whether the event is later than the version before this change. If not, the event led to that version, and
/// this change has another cause, such as a segment.
fn is_later(at: DateTime<chrono::Utc>, previous_version: Option<u64>) -> bool {
    let at_ms = u64::try_from(at.timestamp_millis()).unwrap_or(0);
    previous_version.is_none_or(|previous| at_ms > previous)
}
