//! Source of local flags, which are read from the database for all environments in one poll.
//!
//! The definition of a flag with a schedule changes at each of its steps. The times depend only on the flag
//! and the clock, so a new leader determines the same steps as the previous one; a leader whose clock is wrong uses the
//! database's. Instances that receive a new definition late have applied the step on their own.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::to_raw_value;

use crate::flag::local::{LocalFlag, feature, last_step, next_step};
use crate::manage::repository::{LocalRow, Repository};

use super::answer::Answer;
use super::fetch::{FetchError, FetchResult};
use super::refusal::Refused;

/// Poll interval without a hint. A poll without changes costs one small query.
pub const LOCAL_REFRESH: Duration = Duration::from_secs(5);

/// Actor of a change that a step of the schedule causes.
const SCHEDULE: &str = "schedule";

/// Source of the local flags of all environments.
#[derive(Debug, Clone)]
pub struct LocalSource {
    repository: Repository,
    /// Last poll whose flags are in force.
    accepted: Option<PolledResult>,
    offered: Option<PolledResult>,
}

/// State covered by a poll: all changes up to a mark, which grows with every committed change, and all steps
/// before the next one.
#[derive(Debug, Clone, Copy)]
struct PolledResult {
    mark: i64,
    next_step: Option<DateTime<Utc>>,
}

impl LocalSource {
    pub fn new(repository: Repository) -> Self {
        Self { repository, accepted: None, offered: None }
    }

    pub async fn look(&mut self) -> Result<FetchResult, FetchError> {
        self.repository.ready().await;
        // The mark is queried before the rows, so that changes committed in between are seen by the next poll
        // too.
        let mark = self.repository.mark().await?;
        let received_at = self.repository.now();
        let is_due = |look: &PolledResult| look.next_step.is_some_and(|step| step <= received_at);
        if self.accepted.is_some_and(|look| look.mark == mark && !is_due(&look)) {
            return Ok(FetchResult::Unchanged);
        }
        let rows = self.repository.all().await?;
        // Runs on a blocking thread, because thousands of flags take some time.
        let reading = tokio::task::spawn_blocking(move || read(rows, received_at));
        let (answers, next_step) = reading.await.map_err(|error| FetchError::Internal(error.to_string()))?;
        self.offered = Some(PolledResult { mark, next_step });
        Ok(FetchResult::Local { answers, received_at })
    }

    /// Records whether the last response was accepted. If not, the next poll returns it again.
    pub fn settled(&mut self, accepted: bool) {
        if let Some(look) = self.offered.take()
            && accepted
        {
            self.accepted = Some(look);
        }
    }

    /// Time until the next step of any flag; `None` if there is none.
    pub fn until_next_step(&self) -> Option<Duration> {
        let next = self.accepted?.next_step?;
        // A step that is already due needs no waiting.
        Some((next - self.repository.now()).to_std().unwrap_or_default())
    }
}

/// The flags in force at `now`, and the time of the next step of any of them.
fn read(rows: Vec<LocalRow>, now: DateTime<Utc>) -> (BTreeMap<String, Answer>, Option<DateTime<Utc>>) {
    let mut answers = BTreeMap::<String, Answer>::new();
    let mut next: Option<DateTime<Utc>> = None;
    for row in rows {
        let step = add(answers.entry(row.environment.clone()).or_default(), row, now);
        next = next.into_iter().chain(step).min();
    }
    (answers, next)
}

fn add(answer: &mut Answer, row: LocalRow, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if row.deleted {
        answer.deleted.insert(row.name, row.actor);
        return None;
    }
    let read = serde_json::from_str::<LocalFlag>(&row.document);
    let read = read.and_then(|flag| Ok((to_raw_value(&feature(&row.name, &flag, row.revision, now))?, flag)));
    match read {
        Ok((json, flag)) => {
            let by_step = last_step(&flag, now).is_some_and(|step| step > row.updated_at);
            let actor = if by_step { SCHEDULE.to_owned() } else { row.actor };
            answer.add(row.name, json, Some(actor));
            next_step(&flag, now)
        }
        // The document was written by a newer version or by hand.
        Err(error) => {
            answer.refused.push(Refused::new(row.name, error.to_string()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn row(document: &str) -> LocalRow {
        LocalRow {
            environment: "e".to_owned(),
            name: "f".to_owned(),
            revision: 1,
            document: document.to_owned(),
            actor: "ann".to_owned(),
            updated_at: at("2026-01-01T00:00:00Z"),
            deleted: false,
        }
    }

    #[test]
    fn a_step_is_a_change_of_its_own_whoever_leads() {
        let document = r#"{"is_enabled": true, "rollout_schedule": [
            {"date": "2026-02-01T00:00:00Z", "percentage": 10}, {"date": "2026-03-01T00:00:00Z", "percentage": 50}]}"#;
        let seen = |now: &str| {
            let (answers, next) = read(vec![row(document)], at(now));
            let feature = answers["e"].features[0].clone();
            (feature.json.get().to_owned(), feature.actor.unwrap(), next)
        };
        let before = seen("2026-01-31T23:59:59.999Z");
        assert_eq!((before.1.as_str(), before.2), ("ann", Some(at("2026-02-01T00:00:00Z"))));
        assert_eq!(seen("2026-01-15T00:00:00Z").0, before.0, "nothing changes between two steps");
        let first = seen("2026-02-01T00:00:00Z");
        assert_eq!((first.1.as_str(), first.2), (SCHEDULE, Some(at("2026-03-01T00:00:00Z"))));
        assert_ne!(first.0, before.0);
        assert_eq!(seen("2026-02-28T00:00:00Z").0, first.0);
        let last = seen("2026-03-01T00:00:00Z");
        assert_eq!((last.1.as_str(), last.2), (SCHEDULE, None));
        assert_ne!(last.0, first.0);
        // A flag that is disabled as a whole has no next step.
        assert_eq!(read(vec![row(&document.replace("true", "false"))], at("2026-01-15T00:00:00Z")).1, None);
    }
}
