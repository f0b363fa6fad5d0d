//! Local flags, from the database: one look for all environments.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use serde_json::value::to_raw_value;

use crate::flag::local::{LocalFlag, feature};
use crate::manage::records::{LocalRow, Records};

use super::answer::Answer;
use super::look::{LookError, Seen};
use super::refusal::Refused;

/// Without a hint; looking in vain costs one small question.
pub const LOCAL_REFRESH: Duration = Duration::from_secs(5);

/// The local flags of all environments.
#[derive(Debug, Clone)]
pub struct LocalOrigin {
    records: Records,
    /// Grows with every change that is committed.
    accepted: Option<i64>,
    offered: Option<i64>,
}

impl LocalOrigin {
    pub fn new(records: Records) -> Self {
        Self { records, accepted: None, offered: None }
    }

    pub async fn look(&mut self) -> Result<Seen, LookError> {
        self.records.ready().await;
        // Asked before the rows: what is committed in between is seen again.
        let mark = self.records.mark().await?;
        if self.accepted == Some(mark) {
            return Ok(Seen::Unchanged);
        }
        let received_at = Utc::now();
        let rows = self.records.all().await?;
        // Away from the threads that wait for sockets: thousands of flags take their time.
        let reading = tokio::task::spawn_blocking(move || read(rows));
        let answers = reading.await.map_err(|error| LookError::Internal(error.to_string()))?;
        self.offered = Some(mark);
        Ok(Seen::Local { answers, received_at })
    }

    /// The answer given last is in force, or not: then the next look must see it again.
    pub fn settled(&mut self, accepted: bool) {
        if let Some(mark) = self.offered.take()
            && accepted
        {
            self.accepted = Some(mark);
        }
    }
}

fn read(rows: Vec<LocalRow>) -> BTreeMap<String, Answer> {
    let mut answers = BTreeMap::<String, Answer>::new();
    for row in rows {
        add(answers.entry(row.environment.clone()).or_default(), row);
    }
    answers
}

fn add(answer: &mut Answer, row: LocalRow) {
    if row.deleted {
        answer.deleted.insert(row.name, row.actor);
        return;
    }
    let flag: Result<LocalFlag, _> = serde_json::from_str(&row.document);
    let json = flag.and_then(|flag| to_raw_value(&feature(&row.name, &flag, row.revision)));
    match json {
        Ok(json) => answer.add(row.name, json, Some(row.actor)),
        // Written by a newer version, or by hand.
        Err(error) => answer.refused.push(Refused::new(row.name, error.to_string())),
    }
}
