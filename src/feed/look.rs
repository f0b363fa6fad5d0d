//! One look at a source, and all the ways in which it can fail.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::database::DatabaseError;

use super::answer::{Answer, AnswerError};

/// What a look found.
#[derive(Debug)]
pub enum Seen {
    /// The same as the answer accepted last.
    Unchanged,
    Answer {
        answer: Answer,
        received_at: DateTime<Utc>,
    },
    /// Local flags by environment: all that there are.
    Local {
        answers: BTreeMap<String, Answer>,
        received_at: DateTime<Utc>,
    },
}

/// A look that found nothing to believe. Nothing changes; the source is asked again later.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("no answer in time: {0}")]
    Timeout(String),
    #[error("the answer broke off: {0}")]
    BrokeOff(String),
    #[error("status {status}: {start}")]
    Status {
        status: u16,
        /// How the body begins.
        start: String,
        retry_after: Option<Duration>,
    },
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("the file cannot be read: {0}")]
    File(#[from] std::io::Error),
    #[error("the database does not answer: {0}")]
    Database(#[from] DatabaseError),
    #[error("the look was cut short: {0}")]
    Internal(String),
}

impl LookError {
    /// The metric label. Two failures of the same reason are one to the log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::BrokeOff(_) => "truncated",
            Self::Status { status: 401 | 403, .. } => "unauthorised",
            Self::Status { status: 429, .. } => "rate_limited",
            Self::Status { status: 500..=599, .. } => "server_error",
            Self::Status { .. } => "unexpected_status",
            Self::TooLarge { .. } => "too_large",
            Self::Answer(error) => error.reason(),
            Self::File(_) => "file",
            Self::Database(_) => "database",
            Self::Internal(_) => "internal",
        }
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Reads an answer away from the threads that wait for sockets: a large one takes tens of milliseconds.
pub async fn read(body: Vec<u8>) -> Result<Seen, LookError> {
    let received_at = Utc::now();
    let reading = tokio::task::spawn_blocking(move || Answer::read(&body));
    let answer = reading.await.map_err(|error| LookError::Internal(error.to_string()))??;
    Ok(Seen::Answer { answer, received_at })
}
