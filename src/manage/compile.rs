//! Compiling what a call proposes, away from the threads that serve calls.

use chrono::Utc;
use tokio::sync::Semaphore;

use crate::flag::CompiledFlag;
use crate::flag::local::{self, Invalid, LocalFlag};

use super::ManageError;

/// Compilations at once: each may take megabytes, and a good part of a second.
const COMPILATIONS_AT_ONCE: usize = 2;

static TURNS: Semaphore = Semaphore::const_new(COMPILATIONS_AT_ONCE);

/// Does the work on a thread of its own, a few at a time.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ManageError> {
    // Never closed.
    let _turn = TURNS.acquire().await;
    tokio::task::spawn_blocking(work).await.map_err(|_| ManageError::Busy("the definition was not checked"))
}

/// The flag, compiled on a thread of its own. While it is held, compiling it again takes no time.
pub(super) async fn checked(
    name: &str,
    environment: &str,
    flag: &LocalFlag,
) -> Result<CompiledFlag, ManageError> {
    let (name, environment, flag) = (name.to_owned(), environment.to_owned(), flag.clone());
    apart(move || compile(&name, &environment, &flag)).await?
}

/// The flag, if it can be compiled and is not too large.
pub(super) fn compile(name: &str, environment: &str, flag: &LocalFlag) -> Result<CompiledFlag, ManageError> {
    let definition = local::feature(name, flag, i64::MAX, Utc::now()).to_string();
    let invalid = |field: String, message: String| Invalid { field, message, malformed: false };
    let compiled = CompiledFlag::compile(environment, 0, &definition)
        .map_err(|error| ManageError::Invalid(vec![invalid(error.field, error.message)]))?;
    // Of a flag that comes from here nothing may be left out.
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

    /// One thread serves all calls here: it goes on while a definition is compiled, and a compilation waits for its turn.
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
