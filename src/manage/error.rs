//! Errors of management requests.

use crate::auth::Outside;
use crate::database::DatabaseError;
use crate::feed::FetchError;
use crate::flag::local::Invalid;
use crate::kill::KillError;

/// Reason why a management request failed. Nothing was changed unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    #[error("what was sent is not right")]
    Invalid(Vec<Invalid>),
    #[error("local flags need a database, and DATABASE_URL is not set")]
    NoDatabase,
    /// If the connection was lost during the commit, the change may have been made.
    #[error("the database does not answer: {0}")]
    Database(DatabaseError),
    #[error("the flags in force are not known here yet")]
    NotReady,
    /// Too many concurrent operations of this kind. Holds its name.
    #[error("{0}: too many at once, retry later")]
    Busy(&'static str),
    #[error("there is no flag of this name in this environment")]
    Unknown,
    /// The restrictions of the caller's token do not allow the flag.
    #[error(transparent)]
    Outside(#[from] Outside),
    /// The restrictions of the caller's token would not allow the flag after the change.
    #[error("the token would no longer allow the flag after the change: {0}")]
    MovedOutside(Outside),
    #[error(transparent)]
    Kill(#[from] KillError),
    #[error("there is a flag of this name in this environment already")]
    Exists,
    #[error("a flag of this name is managed in {place}, and changed there only{hint}")]
    Elsewhere { place: String, hint: &'static str },
    #[error("the flag is at revision {0} by now")]
    Stale(i64),
    #[error("environment {0} has no source of flags to look at")]
    NoSource(String),
    #[error("the source of flags cannot be looked at: {0}")]
    Source(#[from] FetchError),
    #[error("what the source of flags has is not in force yet: {0}")]
    Late(String),
}

impl From<DatabaseError> for ManageError {
    fn from(error: DatabaseError) -> Self {
        tracing::warn!(%error, "a management call could not use the database");
        Self::Database(error)
    }
}

impl From<sqlx::Error> for ManageError {
    fn from(error: sqlx::Error) -> Self {
        DatabaseError::from(error).into()
    }
}

impl ManageError {
    /// Error for one invalid field.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Invalid { field: field.to_owned(), message: message.into(), malformed: false }])
    }
}
