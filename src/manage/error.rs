//! Errors of management requests.

use crate::auth::Outside;
use crate::database::DatabaseError;
use crate::feed::FetchError;
use crate::flag::local::Invalid;
use crate::kill::KillError;
use crate::log_limit::limited;

/// Reason why a management request failed. Nothing was changed unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    #[error("the request is invalid")]
    Invalid(Vec<Invalid>),
    #[error("local flags need a database, and DATABASE_URL is not set")]
    NoDatabase,
    /// If the connection was lost during the commit, the change may have been made.
    #[error("the database request failed: {0}")]
    Database(DatabaseError),
    #[error("the flags are not loaded on this instance yet; retry later")]
    NotReady,
    /// Too many concurrent operations of this kind. Holds its name.
    #[error("{0}; retry later")]
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
    #[error("a flag of this name is managed in {place}, and can only be changed there{hint}")]
    Elsewhere { place: String, hint: &'static str },
    #[error("the flag was changed, its current revision is {0}; read it again and repeat the change")]
    Stale(i64),
    #[error("environment {0} has no source of flags to sync with")]
    NoSource(String),
    #[error("the source of flags cannot be read: {0}")]
    Source(#[from] FetchError),
    #[error(
        "the sync did not complete in time: flag {0} of the source is not in force on this instance yet; retry later"
    )]
    Late(String),
}

impl From<DatabaseError> for ManageError {
    fn from(error: DatabaseError) -> Self {
        limited!(warn, %error, "the database request of a management request failed");
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
