//! An experiment with so many users that they are counted in two parts at the same time.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Fixture;
use crate::harness::Stack;

/// More than the number of exposures from which on users are counted in parts.
const USERS: i64 = 100_001;
/// Relative difference allowed between the sums of the two parts and those of all rows.
const TOLERANCE: f64 = 1e-9;

/// Users who were exposed, of whom every third buys one or two things.
fn rows() -> String {
    let user = "substring(sha256(n::text::bytea) for 16)";
    let hour_ago = "(extract(epoch FROM now() - interval '1 hour') * 1e6)::bigint";
    format!(
        "INSERT INTO experiment_exposures (experiment_id, user_key, flag_version, variant, exposed_at, crossed)
            SELECT (SELECT max(id) FROM experiments), {user}, (SELECT max(version) FROM feature_flag_versions),
                CASE WHEN n % 5 < 2 THEN 'dark' ELSE 'light' END, {hour_ago}, false
            FROM generate_series(1, {USERS}) AS n;
        INSERT INTO experiment_conversions (experiment_id, event_key, user_key, metric, value, occurred_at)
            SELECT (SELECT max(id) FROM experiments), substring(sha256(('event' || n || times)::bytea) for 16),
                {user}, 'order', 1000000 + n % 97 + times, {hour_ago} + n
            FROM generate_series(1, {USERS}, 3) AS n, generate_series(0, n % 2) AS times;
        ANALYZE experiment_exposures, experiment_conversions"
    )
}

/// Users with a value, mean and standard deviation over all users of each variant, by the database.
const VALUES: &str = "SELECT variant, count(*) FILTER (WHERE v > 0), avg(v), stddev_samp(v) FROM (
        SELECT e.variant, coalesce(sum(c.value), 0) AS v FROM experiment_exposures AS e
            LEFT JOIN experiment_conversions AS c USING (user_key) GROUP BY e.user_key, e.variant) AS users
    GROUP BY variant";

#[test]
fn a_large_experiment_has_the_results_of_all_its_rows() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    fixture.begin(&service, &json!([{"name": "order", "kind": "mean"}]));
    fixture.database.run(&rows());
    let results = fixture.wait(&service, "all users counted", |results| results["phase"]["users"] == USERS);
    let levels = results["phase"]["metrics"][0]["levels"].as_array().unwrap();
    let levels: BTreeMap<&str, &Value> =
        levels.iter().map(|level| (level["variant"].as_str().unwrap(), level)).collect();
    let expected = fixture.database.rows::<(String, i64, f64, f64)>(VALUES);
    assert_eq!((levels.len(), expected.len()), (2, 2), "{results}");
    for (variant, converted, mean, deviation) in expected {
        let level = levels[variant.as_str()];
        assert_eq!(level["converted"], converted, "{level}");
        for (name, expected) in [("mean", mean), ("deviation", deviation)] {
            let ours = level[name].as_f64().unwrap();
            assert!(
                (ours / expected - 1.0).abs() < TOLERANCE,
                "{name} of {variant}: {ours}, expected {expected}"
            );
        }
    }
    let counted = fixture.database.number("SELECT count(*) FROM experiment_conversions").unwrap();
    assert_eq!(results["conversions"]["attributed"], counted, "{results}");
}
