//! Logs calls for environments that this deployment does not serve. They are answered with defaults, so the caller's
//! mistake would otherwise stay unnoticed. At most one line per minute and environment; `flagstream_evaluations_total`
//! counts them with the environment `(unserved)`.

use crate::flag::Snapshot;
use crate::log_limit::KeyedLogLimit;

/// Number of characters of a name that are logged, because callers choose it.
const NAME_MAX_CHARS: usize = 100;
/// Maximum number of served environments listed.
const SERVED_MAX_COUNT: usize = 20;

static LIMIT: KeyedLogLimit = KeyedLogLimit::new();

/// Logs that a call requested `environment`, which is not in `snapshot`.
pub fn note(environment: &str, snapshot: &Snapshot) {
    let environment: String = environment.chars().take(NAME_MAX_CHARS).collect();
    if let Some(suppressed) = LIMIT.admit(&environment) {
        let served = served(snapshot);
        tracing::warn!(
            suppressed,
            "a caller requested environment {environment:?}, which is not served (served: {served}); defaults were \
             returned"
        );
    }
}

fn served(snapshot: &Snapshot) -> String {
    let names: Vec<_> =
        snapshot.environments().map(|(name, _)| name.as_ref()).take(SERVED_MAX_COUNT).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environments_that_are_served_are_listed() {
        assert_eq!(served(&Snapshot::default()), "none");
        let two = Snapshot::default().serving(["development", "production"]);
        assert_eq!(served(&two), "development, production");
    }
}
