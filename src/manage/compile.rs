//! Compilation of definitions in requests, off the threads that serve requests.

use chrono::Utc;
use tokio::sync::Semaphore;

use crate::flag::CompiledFlag;
use crate::flag::local::{self, Invalid, LocalFlag};

use super::ManageError;

/// Concurrent compilations. Each can take megabytes of memory and a large part of a second.
const COMPILATIONS_AT_ONCE: usize = 2;

static TURNS: Semaphore = Semaphore::const_new(COMPILATIONS_AT_ONCE);

/// Runs `work` on a blocking thread, with limited concurrency.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ManageError> {
    // The semaphore is never closed, so this cannot fail.
    let _turn = TURNS.acquire().await;
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ManageError::Busy("checking the definition failed unexpectedly"))
}

/// Compiles the flag on a blocking thread. As long as the result is kept, compiling the flag again is fast.
pub(super) async fn checked(
    name: &str,
    environment: &str,
    flag: &LocalFlag,
) -> Result<CompiledFlag, ManageError> {
    let (name, environment, flag) = (name.to_owned(), environment.to_owned(), flag.clone());
    apart(move || compile(&name, &environment, &flag)).await?
}

/// Compiles the flag. An error if it is invalid or too large.
pub(super) fn compile(name: &str, environment: &str, flag: &LocalFlag) -> Result<CompiledFlag, ManageError> {
    let definition = local::feature(name, flag, i64::MAX, Utc::now()).to_string();
    let invalid = |field: String, message: String| Invalid { field, message, malformed: false };
    let compiled = CompiledFlag::compile(environment, 0, &definition)
        .map_err(|error| ManageError::Invalid(vec![invalid(error.field, error.message)]))?;
    // A problem that only disables part of a flag is an error for a flag created here.
    let problems = compiled.problems().map(|problem| {
        let (field, message) = problem.split_once(": ").unwrap_or(("rules", problem));
        invalid(field.to_owned(), message.to_owned())
    });
    let problems: Vec<_> = problems.collect();
    if problems.is_empty() { Ok(compiled) } else { Err(ManageError::Invalid(problems)) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The runtime has a single thread, which must stay responsive while a compilation blocks another one.
    #[tokio::test(flavor = "current_thread")]
    async fn the_thread_that_serves_calls_goes_on_while_something_is_compiled() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let compiling = tokio::spawn(apart(move || released.recv().unwrap()));
        tokio::task::yield_now().await;
        let served = tokio::spawn(async { "alive" }).await.unwrap();
        assert_eq!(served, "alive");
        release.send(()).unwrap();
        assert!(compiling.await.unwrap().is_ok());
    }
}
