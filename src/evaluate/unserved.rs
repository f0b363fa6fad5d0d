//! Calls for an environment that this deployment does not serve are answered with defaults, so that the caller's mistake would go
//! unseen: they are logged, at most once a minute for each environment. `flagstream_evaluations_total` counts them with the
//! environment `(unserved)`.

use crate::flag::Snapshot;
use crate::log_limit::KeyedLogLimit;

/// How much of a name is logged; callers choose it.
const NAME_MAX_CHARS: usize = 100;
/// How many environments are listed.
const SERVED_MAX_COUNT: usize = 20;

static LIMIT: KeyedLogLimit = KeyedLogLimit::new();

/// Logs that a call asked for `environment`, which is not in `snapshot`.
pub fn note(environment: &str, snapshot: &Snapshot) {
    let environment: String = environment.chars().take(NAME_MAX_CHARS).collect();
    if let Some(suppressed) = LIMIT.admit(&environment) {
        let served = served(snapshot);
        tracing::warn!(
            suppressed,
            "asked for environment {environment:?}, which is not served (served: {served}); the answers are defaults"
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
