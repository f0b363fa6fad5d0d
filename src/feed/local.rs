//! Local flags, from the database: one look for all environments.
//!
//! A flag with a schedule is another definition from each of its steps on. When that is follows from what the flag says
//! and the clock, so that a new leader knows it as the old one did; instances that hear of it late have applied the step
//! by themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::to_raw_value;

use crate::flag::local::{LocalFlag, feature, last_step, next_step};
use crate::manage::records::{LocalRow, Records};

use super::answer::Answer;
use super::look::{LookError, Seen};
use super::refusal::Refused;

/// Without a hint; looking in vain costs one small question.
pub const LOCAL_REFRESH: Duration = Duration::from_secs(5);

/// Who changes a flag when the time of a step has come.
const SCHEDULE: &str = "schedule";

/// The local flags of all environments.
#[derive(Debug, Clone)]
pub struct LocalOrigin {
    records: Records,
    /// Grows with every change that is committed.
    accepted: Option<Look>,
    offered: Option<Look>,
}

/// What a look has seen: all changes up to a mark, and all steps before the next one.
#[derive(Debug, Clone, Copy)]
struct Look {
    mark: i64,
    next_step: Option<DateTime<Utc>>,
}

impl LocalOrigin {
    pub fn new(records: Records) -> Self {
        Self { records, accepted: None, offered: None }
    }

    pub async fn look(&mut self) -> Result<Seen, LookError> {
        self.records.ready().await;
        // Asked before the rows: what is committed in between is seen again.
        let mark = self.records.mark().await?;
        let received_at = Utc::now();
        let is_due = |look: &Look| look.next_step.is_some_and(|step| step <= received_at);
        if self.accepted.is_some_and(|look| look.mark == mark && !is_due(&look)) {
            return Ok(Seen::Unchanged);
        }
        let rows = self.records.all().await?;
        // Away from the threads that wait for sockets: thousands of flags take their time.
        let reading = tokio::task::spawn_blocking(move || read(rows, received_at));
        let (answers, next_step) = reading.await.map_err(|error| LookError::Internal(error.to_string()))?;
        self.offered = Some(Look { mark, next_step });
        Ok(Seen::Local { answers, received_at })
    }

    /// The answer given last is in force, or not: then the next look must see it again.
    pub fn settled(&mut self, accepted: bool) {
        if let Some(look) = self.offered.take()
            && accepted
        {
            self.accepted = Some(look);
        }
    }

    /// How long it is until the next step of all.
    pub fn until_next_step(&self) -> Option<Duration> {
        let next = self.accepted?.next_step?;
        // Of a step that has just come nothing is left to wait for.
        Some((next - Utc::now()).to_std().unwrap_or_default())
    }
}

/// The flags as they are at `now`, and when the next step of any of them comes.
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
        // Written by a newer version, or by hand.
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
        // Of a flag that is off as a whole no step is waited for.
        assert_eq!(read(vec![row(&document.replace("true", "false"))], at("2026-01-15T00:00:00Z")).1, None);
    }
}
