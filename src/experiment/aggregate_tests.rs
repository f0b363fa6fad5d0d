//! Tests of the deletion of waiting conversions, with SQLite.
#![allow(clippy::unwrap_used)]

use sqlx::AssertSqlSafe;

use super::*;
use crate::config::Secret;

const EXPERIMENT: i64 = 1;

/// A database with an experiment whose conversions occurred at these times; the users with an odd index were exposed.
async fn database(folder: &tempfile::TempDir, occurred_at: &[i64]) -> Database {
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    let database = Database::open(&Secret::new(url), "test").unwrap();
    database.migrate().await.unwrap();
    let mut statements =
        "INSERT INTO experiments (environment, name, flag_name, design, created_by, started_at)
        VALUES ('e', 'x', 'f', '{}', 'ann', 0);"
            .to_owned();
    for (index, at) in occurred_at.iter().enumerate() {
        statements.push_str(&format!(
            "INSERT INTO experiment_conversions VALUES ({EXPERIMENT}, x'{index:04x}', x'{index:04x}', 'm', NULL, {at}, NULL);"
        ));
        if index % 2 == 1 {
            statements.push_str(&format!(
                "INSERT INTO experiment_exposures VALUES ({EXPERIMENT}, x'{index:04x}', 1, 'on', 0, 0, NULL, NULL);"
            ));
        }
    }
    let Database::Sqlite(sqlite) = &database else { unreachable!() };
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&sqlite.pool).await.unwrap();
    database
}

/// Times of the conversions that are left, without those of exposed users.
async fn left(database: &Database) -> Vec<i64> {
    let Database::Sqlite(sqlite) = database else { unreachable!() };
    let query = "SELECT occurred_at FROM experiment_conversions AS c WHERE NOT EXISTS (SELECT 1
        FROM experiment_exposures AS e WHERE e.user_key = c.user_key) ORDER BY occurred_at";
    sqlx::query_scalar(query).fetch_all(&sqlite.pool).await.unwrap()
}

async fn expired_in_all(database: &Database) -> i64 {
    let Database::Sqlite(sqlite) = database else { unreachable!() };
    sqlx::query_scalar("SELECT expired FROM experiments").fetch_one(&sqlite.pool).await.unwrap()
}

fn at(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap()
}

#[tokio::test]
async fn of_too_many_waiting_conversions_only_the_oldest_surplus_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    // Those at odd positions belong to exposed users and do not wait.
    let database = database(&folder, &[50, 1, 10, 2, 30, 3, 20, 4, 40, 5]).await;
    let one_too_many = expire(&database, EXPERIMENT, at(0), 4).await.unwrap();
    assert_eq!(one_too_many, 1);
    assert_eq!(left(&database).await, [20, 30, 40, 50]);
    // By age and by number at once.
    let both = expire(&database, EXPERIMENT, at(25), 2).await.unwrap();
    assert_eq!(both, 2);
    assert_eq!(left(&database).await, [40, 50]);
    let none = expire(&database, EXPERIMENT, at(25), 2).await.unwrap();
    assert_eq!(none, 0);
    assert_eq!(expired_in_all(&database).await, 3);
}

#[tokio::test]
async fn conversions_of_one_moment_are_deleted_up_to_the_limit_only() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(&folder, &[7; 20]).await;
    assert_eq!(expire(&database, EXPERIMENT, at(7), 9).await.unwrap(), 1);
    assert_eq!(left(&database).await.len(), 9);
}
