//! Plan of a search in many rows.

use super::{Operator, group};
use crate::harness::{Database, Stack, TEST_TIMEOUT, is_long, wait_until};

/// Evaluations of each user.
const OF_USER: i64 = 10;

/// Scans of the indexes of all partitions on the hash of a column.
fn scans(database: &Database, column: &str) -> i64 {
    let query = format!(
        "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes
        WHERE relname LIKE 'feature_flag_evaluations%'
            AND pg_get_indexdef(indexrelid) LIKE '%hashtextextended({column}%'"
    );
    database.number(&query).unwrap()
}

#[test]
fn a_search_by_user_or_request_reads_an_index_and_not_the_table() {
    let (stack, _shared) = Stack::shared();
    let rows: i64 = if is_long() { 1_000_000 } else { 20_000 };
    let database = Database::create(stack);
    let service = group(stack, &database).start("one");
    let operator = Operator::of(&service);
    database.run(&format!(
        "INSERT INTO feature_flag_evaluations (flag_name, user_id, context, result, environment, evaluated_at,
            evaluation_reason, event_id, request_id, enabled, source_api)
        SELECT 'flag-' || (n % 20), 'user-' || (n % {}), '{{}}', true, 'production', now() - n * interval '1 second',
            'TARGETING_MATCH', gen_random_uuid(), 'request-' || n, true, 'rest' FROM generate_series(1, {rows}) AS n;
        ANALYZE feature_flag_evaluations",
        rows / OF_USER
    ));
    let before = ["user_id", "request_id"].map(|column| scans(&database, column));
    let of_user = operator.list("/api/v1/evaluations", "?user_id=user-77");
    assert_eq!(of_user["evaluations"].as_array().map(|all| all.len() as i64), Some(OF_USER));
    let of_request = operator.list("/api/v1/evaluations", "?request_id=request-777");
    assert_eq!(of_request["evaluations"].as_array().map(Vec::len), Some(1));
    // A session of Postgres reports its scans with a later statement.
    let searches = [("user_id", "?user_id=user-77"), ("request_id", "?request_id=request-777")];
    for ((column, query), before) in searches.into_iter().zip(before) {
        wait_until(&format!("a scan of the index on {column}"), TEST_TIMEOUT, || {
            operator.list("/api/v1/evaluations", query);
            scans(&database, column) > before
        });
    }
}
