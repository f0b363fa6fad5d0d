//! Polls of sources: their results and errors.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::database::DatabaseError;

use super::answer::{Answer, AnswerError};

/// Result of a successful poll.
#[derive(Debug)]
pub enum FetchResult {
    /// The source is unchanged since the last accepted response.
    Unchanged,
    Answer {
        answer: Answer,
        received_at: DateTime<Utc>,
    },
    /// Complete local flags by environment.
    Local {
        answers: BTreeMap<String, Answer>,
        received_at: DateTime<Utc>,
    },
}

/// Error of a poll. The flags stay as they are, and the source is polled again later.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("cannot connect: {0}")]
    Unreachable(String),
    #[error("no response in time: {0}")]
    Timeout(String),
    #[error("the response is incomplete: {0}")]
    BrokeOff(String),
    #[error("status {status}: {start}")]
    Status {
        status: u16,
        /// Beginning of the response body.
        start: String,
        retry_after: Option<Duration>,
    },
    #[error("the response is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("the file cannot be read: {0}")]
    File(#[from] std::io::Error),
    #[error("the database request failed: {0}")]
    Database(#[from] DatabaseError),
    #[error("the poll was aborted: {0}")]
    Internal(String),
}

impl FetchError {
    /// Value of the metric label. Consecutive failures with the same reason are logged once.
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

/// Reads a response on a blocking thread, because a large one takes tens of milliseconds.
pub async fn read(body: Vec<u8>) -> Result<FetchResult, FetchError> {
    let received_at = Utc::now();
    let reading = tokio::task::spawn_blocking(move || Answer::read(&body));
    let answer = reading.await.map_err(|error| FetchError::Internal(error.to_string()))??;
    Ok(FetchResult::Answer { answer, received_at })
}
