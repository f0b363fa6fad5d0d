//! Error responses of management requests.

use axum::http::header::ETAG;
use axum::http::{HeaderValue, StatusCode};

use crate::flag::local::Invalid;
use crate::http::Problem;
use crate::http::problem::FieldError;
use crate::kill::KillError;
use crate::log_limit::limited;
use crate::manage::ManageError;

/// Converts an error into a problem. Internal causes are not shown, except those that the caller can act on.
pub(in crate::http) fn problem(error: ManageError) -> Problem {
    let status = match &error {
        ManageError::Invalid(invalid) => return invalid_fields(invalid),
        ManageError::Unknown => StatusCode::NOT_FOUND,
        ManageError::Outside(_) | ManageError::MovedOutside(_) => StatusCode::FORBIDDEN,
        ManageError::Kill(KillError::Kafka(error)) => {
            limited!(warn, error, "a kill switch could not be changed");
            let detail = "Kafka did not confirm the change, so the kill switch may or may not have changed; check \
                the flag and retry";
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1);
        }
        ManageError::Kill(KillError::NotKilled | KillError::TooMany | KillError::TooManyStored) => {
            StatusCode::CONFLICT
        }
        ManageError::Exists | ManageError::Elsewhere { .. } => StatusCode::CONFLICT,
        ManageError::Stale(revision) => {
            let problem = Problem::new(StatusCode::PRECONDITION_FAILED, &error);
            let tag = HeaderValue::try_from(format!("\"{revision}\""));
            return tag.into_iter().fold(problem, |problem, tag| problem.header(ETAG, tag));
        }
        ManageError::NoSource(_) => {
            return Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "environment", error.to_string());
        }
        ManageError::Source(error) => {
            let detail = format!(
                "the source of flags is unreachable or returned an invalid response ({}); retry later",
                error.reason()
            );
            return Problem::new(StatusCode::BAD_GATEWAY, detail).retry_after(1);
        }
        ManageError::NoDatabase => StatusCode::SERVICE_UNAVAILABLE,
        ManageError::Database(_) => {
            let detail = "the database request failed; a change may have been committed, so read the flag before you \
                retry";
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1);
        }
        ManageError::NotReady | ManageError::Late(_) | ManageError::Busy(_) => {
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(1);
        }
    };
    Problem::new(status, error)
}

pub(in crate::http) fn invalid_fields(invalid: &[Invalid]) -> Problem {
    let status = match invalid.iter().any(|invalid| invalid.malformed) {
        true => StatusCode::BAD_REQUEST,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let errors = invalid.iter().map(|invalid| FieldError::new(&invalid.field, invalid.message.clone()));
    Problem::of_fields(status, errors.collect())
}
