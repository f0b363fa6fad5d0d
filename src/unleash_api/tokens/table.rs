//! Validated tokens in the database, as hashes: an instance that does not know a token accepts it while Unleash is
//! unreachable if another instance has validated it.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};

use crate::database::{Database, DatabaseError, in_transaction, on_pool};

use super::TokenHash;
use super::cache::Known;
use super::disk::SavedToken;

/// Days after its last validation for which a token is kept.
const KEPT_DAYS: i64 = 90;

#[derive(Debug)]
pub(super) struct TokenTable(Database);

type Row = (String, String, String, Option<String>, i64);

impl TokenTable {
    pub fn new(database: Database) -> Self {
        Self(database)
    }

    /// Reads the tokens with these hashes, as far as the table has them.
    pub async fn find(&self, hashes: &[TokenHash]) -> Result<Vec<Arc<Known>>, DatabaseError> {
        const FIND: &str = "SELECT token_hash, kind, environment, projects, validated_ms FROM unleash_tokens
            WHERE token_hash = $1";
        let mut found = Vec::new();
        for hash in hashes {
            let row: Option<Row> = on_pool!(&self.0, |pool, sql| sqlx::query_as(sql(FIND))
                .bind(hex::encode(hash))
                .fetch_optional(pool)
                .await?);
            found.extend(row.and_then(read));
        }
        Ok(found)
    }

    /// Adds tokens, or replaces what is known of them.
    pub async fn save(&self, tokens: &[Arc<Known>]) -> Result<(), DatabaseError> {
        const SAVE: &str =
            "INSERT INTO unleash_tokens (token_hash, kind, environment, projects, validated_ms)
            VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (token_hash) DO UPDATE SET kind = excluded.kind, environment = excluded.environment,
                projects = excluded.projects, validated_ms = excluded.validated_ms";
        let mut saved: Vec<_> = tokens.iter().map(|known| SavedToken::of(known)).collect();
        // One order for all instances, which prevents deadlocks.
        saved.sort_unstable_by(|one, other| one.hash.cmp(&other.hash));
        let projects =
            |token: &SavedToken| token.projects.as_ref().and_then(|it| serde_json::to_string(it).ok());
        in_transaction!(&self.0, |transaction, sql| {
            for token in &saved {
                sqlx::query(sql(SAVE))
                    .bind(&token.hash)
                    .bind(&token.kind)
                    .bind(&token.environment)
                    .bind(projects(token))
                    .bind(token.validated_ms)
                    .execute(&mut *transaction)
                    .await?;
            }
        });
        Ok(())
    }

    /// Removes a token that Unleash has revoked, and tokens that were not used for a long time.
    pub async fn remove(&self, hash: &TokenHash) -> Result<(), DatabaseError> {
        const REMOVE: &str = "DELETE FROM unleash_tokens WHERE token_hash = $1 OR validated_ms < $2";
        let oldest = (Utc::now() - TimeDelta::days(KEPT_DAYS)).timestamp_millis();
        on_pool!(&self.0, |pool, sql| {
            sqlx::query(sql(REMOVE)).bind(hex::encode(hash)).bind(oldest).execute(pool).await.map(drop)?
        });
        Ok(())
    }
}

fn read((hash, kind, environment, projects, validated_ms): Row) -> Option<Arc<Known>> {
    let projects = match projects {
        None => None,
        // A list that cannot be read must not become "all projects".
        Some(text) => Some(serde_json::from_str(&text).ok()?),
    };
    SavedToken { hash, kind, environment, projects, validated_ms }.restore()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use crate::config::{Secret, TokenKind};
    use crate::unleash_api::selection::Selection;

    use super::super::{Access, hash};
    use super::*;

    #[tokio::test]
    async fn tokens_are_found_until_they_are_removed() {
        let database = Database::open(&Secret::new("sqlite::memory:"), "test").unwrap();
        database.migrate().await.unwrap();
        let table = TokenTable::new(database);
        let known = |text: &str, validated_ms, projects: Option<BTreeSet<String>>| {
            let selection = Selection::of_projects("e", projects);
            Known::new(hash(text), Access { kind: Some(TokenKind::Frontend), selection }, validated_ms, None)
        };
        let now = Utc::now().timestamp_millis();
        table.save(&[known("a", 1, None), known("b", now, None)]).await.unwrap();
        let shop = BTreeSet::from(["shop".to_owned()]);
        table.save(&[known("b", now + 1, Some(shop.clone()))]).await.unwrap();
        let found = table.find(&[hash("b"), hash("x")]).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].validated_ms(), &found[0].access.selection.projects), (now + 1, &Some(shop)));
        table.remove(&hash("x")).await.unwrap();
        assert!(table.find(&[hash("a")]).await.unwrap().is_empty(), "validated long ago");
        table.remove(&hash("b")).await.unwrap();
        assert!(table.find(&[hash("b")]).await.unwrap().is_empty());
    }
}
