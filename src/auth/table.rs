//! The table of tokens in Postgres and in SQLite. Both store the same text.

use std::collections::HashSet;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::config::TokenKind;
use crate::database::audited::{Actor, Entry, Kind, enter};
use crate::database::{Database, DatabaseError, DatabaseFault, in_transaction};

use super::new_token::now;
use super::token::SecretHash;
use super::{Grant, NewToken, Token, TokenId};

/// Maximum tokens that are valid at the same time. Every instance holds all of them in memory.
pub const VALID_TOKENS_MAX: i64 = 10_000;
/// Maximum tokens in one list.
pub const PAGE_TOKENS_MAX: u32 = 1_000;

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    pub id: TokenId,
    pub name: String,
    pub grant: Grant,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    /// Token with which this one was created. Revoking that one also revokes this one.
    pub made_by: Option<TokenId>,
}

/// A valid token, with which requests are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Valid {
    pub id: TokenId,
    pub name: String,
    pub hash: SecretHash,
    pub grant: Grant,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Result of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    Now,
    Before,
    Unknown,
}

#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("the limit of {VALID_TOKENS_MAX} valid tokens is reached: revoke some")]
    Full,
    #[error("{0}{advice}", advice = advice(.0))]
    Database(#[from] DatabaseError),
}

fn advice(error: &DatabaseError) -> &'static str {
    if error.trouble() == DatabaseFault::Schema { "; is it migrated? (flagstream migrate)" } else { "" }
}

impl From<sqlx::Error> for TableError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Entered {
    /// State of the token: `active`, `revoked` or `expired`.
    pub fn state(&self) -> &'static str {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => "revoked",
            (None, Some(expires_at)) if expires_at <= Utc::now() => "expired",
            _ => "active",
        }
    }

    /// Permissions of the token, for the change log.
    fn granted(&self) -> Value {
        let scopes: Vec<_> = self.grant.scopes.iter().map(|scope| scope.name()).collect();
        let expires_at = self.expires_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true));
        let environments = self.grant.environments.names();
        let made_by = self.made_by.map(|id| id.to_string());
        let [projects, flag_prefixes, owners] = self.grant.restrictions.fields().map(|(_, names)| names);
        json!({
            "name": self.name,
            "scopes": scopes,
            "environments": environments,
            "projects": projects,
            "flag_prefixes": flag_prefixes,
            "owners": owners,
            "kind": self.grant.kind.map(TokenKind::name),
            "expires_at": expires_at,
            "made_by": made_by,
        })
    }

    /// The token as JSON, for responses and for the command line.
    pub fn json(&self) -> Value {
        let scopes: Vec<_> = self.grant.scopes.iter().map(|scope| scope.name()).collect();
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let [projects, flag_prefixes, owners] = self.grant.restrictions.fields().map(|(_, names)| names);
        json!({
            "id": self.id.to_string(),
            "name": self.name,
            "scopes": scopes,
            "environments": self.grant.environments.names(),
            "projects": projects,
            "flag_prefixes": flag_prefixes,
            "owners": owners,
            "kind": self.grant.kind.map(TokenKind::name),
            "state": self.state(),
            "created_at": time(self.created_at),
            "expires_at": self.expires_at.map(time),
            "revoked_at": self.revoked_at.map(time),
            "last_used_at": self.last_used_at.map(time),
            "made_by": self.made_by.map(|id| id.to_string()),
        })
    }
}

/// Runs one statement in either database.
macro_rules! in_either {
    ($database:expr, $query:expr, $run:ident $(=> $of:ident)?) => {
        match $database {
            Database::Postgres(postgres) => $query.$run(&postgres.pool).await$(.map(|done| done.$of()))?,
            Database::Sqlite(sqlite) => $query.$run(&sqlite.pool).await$(.map(|done| done.$of()))?,
        }
    };
}

/// Creates a token. Its secret is returned only here.
pub async fn create(
    database: &Database,
    new_token: &NewToken,
    author: Actor<'_>,
) -> Result<(Token, Entered), TableError> {
    const VALID: &str = "SELECT count(*) FROM api_tokens WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1)";
    const INSERT: &str =
        "INSERT INTO api_tokens (id, name, secret_hash, scopes, environments, created_at, expires_at, made_by,
            projects, flag_prefixes, owners, kind)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let (token, created_at) = (Token::generate(), now());
    let valid: i64 = in_either!(database, sqlx::query_scalar(VALID).bind(created_at), fetch_one)?;
    if valid >= VALID_TOKENS_MAX {
        return Err(TableError::Full);
    }
    let entered = Entered {
        id: token.id,
        name: new_token.name.clone(),
        grant: new_token.grant.clone(),
        created_at,
        expires_at: new_token.expires_at,
        revoked_at: None,
        last_used_at: None,
        made_by: new_token.made_by,
    };
    let id = token.id.to_string();
    let [projects, flag_prefixes, owners] = new_token.grant.restrictions.stored();
    in_transaction!(database, |transaction, sql| {
        sqlx::query(sql(INSERT))
            .bind(&id)
            .bind(&new_token.name)
            .bind(token.hash().bytes())
            .bind(new_token.grant.scope_names())
            .bind(new_token.grant.environments.stored())
            .bind(created_at)
            .bind(new_token.expires_at)
            .bind(new_token.made_by.map(|id| id.to_string()))
            .bind(projects)
            .bind(flag_prefixes)
            .bind(owners)
            .bind(new_token.grant.kind.map(TokenKind::name))
            .execute(&mut *transaction)
            .await?;
        let after = Some(entered.granted());
        let entry = Entry {
            kind: Kind::Token,
            subject: &id,
            action: "created",
            author,
            before: None,
            after,
            at: created_at,
        };
        enter!(transaction, sql, entry);
    });
    Ok((token, entered))
}

/// Returns up to `limit` tokens that were created before the given one, newest first.
pub async fn list(
    database: &Database,
    before: Option<TokenId>,
    limit: u32,
) -> Result<Vec<Entered>, TableError> {
    const LIST: &str =
        "SELECT id, name, scopes, environments, created_at, expires_at, revoked_at, last_used_at, made_by,
            projects, flag_prefixes, owners, kind FROM api_tokens
        WHERE $1 IS NULL OR (created_at, id) < (SELECT created_at, id FROM api_tokens WHERE id = $1)
        ORDER BY created_at DESC, id DESC LIMIT $2";
    let before = before.map(|id| id.to_string());
    let limit = i64::from(limit.min(PAGE_TOKENS_MAX));
    let rows: Vec<EnteredRow> =
        in_either!(database, sqlx::query_as(LIST).bind(&before).bind(limit), fetch_all)?;
    Ok(rows.into_iter().filter_map(entered).collect())
}

/// Returns one token.
pub async fn find(database: &Database, id: TokenId) -> Result<Option<Entered>, TableError> {
    const FIND: &str =
        "SELECT id, name, scopes, environments, created_at, expires_at, revoked_at, last_used_at, made_by,
            projects, flag_prefixes, owners, kind
        FROM api_tokens WHERE id = $1";
    let row: Option<EnteredRow> =
        in_either!(database, sqlx::query_as(FIND).bind(id.to_string()), fetch_optional)?;
    Ok(row.and_then(entered))
}

/// Revokes a token and all tokens that were created with it, directly or indirectly.
pub async fn revoke(database: &Database, id: TokenId, author: Actor<'_>) -> Result<Revoked, TableError> {
    /// Selects the token and its descendants that are not yet revoked.
    const FAMILY: &str = "WITH RECURSIVE family(id) AS (
            SELECT CAST($1 AS text) UNION
            SELECT made.id FROM api_tokens AS made JOIN family ON made.made_by = family.id
        )
        SELECT id, name, scopes, environments, created_at, expires_at, revoked_at, last_used_at, made_by,
            projects, flag_prefixes, owners, kind
        FROM api_tokens WHERE id IN (SELECT id FROM family) AND revoked_at IS NULL";
    const REVOKE: &str = "UPDATE api_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";
    if find(database, id).await?.is_none() {
        return Ok(Revoked::Unknown);
    }
    let (first, at) = (id.to_string(), now());
    let revoked = in_transaction!(database, |transaction, sql| {
        let family: Vec<EnteredRow> =
            sqlx::query_as(sql(FAMILY)).bind(&first).fetch_all(&mut *transaction).await?;
        let mut revoked = false;
        for token in family.into_iter().filter_map(entered) {
            let subject = token.id.to_string();
            let revoking = sqlx::query(sql(REVOKE)).bind(&subject).bind(at).execute(&mut *transaction);
            // If two revocations run at once, only one of them changes the row.
            if revoking.await?.rows_affected() > 0 {
                revoked |= token.id == id;
                let before = Some(token.granted());
                let subject = subject.as_str();
                let entry =
                    Entry { kind: Kind::Token, subject, action: "revoked", author, before, after: None, at };
                enter!(transaction, sql, entry);
            }
        }
        revoked
    });
    Ok(if revoked { Revoked::Now } else { Revoked::Before })
}

/// Returns a number that changes whenever the set of valid tokens changes.
pub async fn revision(database: &Database) -> Result<i64, TableError> {
    const REVISION: &str = "SELECT number FROM api_token_revision";
    Ok(in_either!(database, sqlx::query_scalar(REVISION), fetch_one)?)
}

/// Returns all valid tokens.
pub async fn valid(database: &Database) -> Result<Vec<Valid>, TableError> {
    const VALID: &str = "SELECT id, name, secret_hash, scopes, environments, created_at, expires_at, made_by,
            projects, flag_prefixes, owners, kind FROM api_tokens
        WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1) ORDER BY created_at DESC LIMIT $2";
    let rows: Vec<ValidRow> =
        in_either!(database, sqlx::query_as(VALID).bind(now()).bind(2 * VALID_TOKENS_MAX), fetch_all)?;
    let read = |row: ValidRow| {
        let (
            id,
            name,
            hash,
            scopes,
            environments,
            created_at,
            expires_at,
            made_by,
            projects,
            prefixes,
            owners,
            kind,
        ) = row;
        let restrictions = [projects.as_deref(), prefixes.as_deref(), owners.as_deref()];
        let valid = Valid {
            id: TokenId::parse(&id)?,
            name,
            hash: SecretHash::stored(hash),
            grant: Grant::read(&scopes, environments.as_deref(), restrictions, kind.as_deref()),
            created_at,
            expires_at,
        };
        Some((valid, made_by))
    };
    Ok(without_orphans(rows.into_iter().filter_map(read).collect()))
}

/// Removes tokens whose creating token is not valid. A token created while its creating token was being revoked is not
/// marked as revoked itself.
fn without_orphans(mut tokens: Vec<(Valid, Option<String>)>) -> Vec<Valid> {
    loop {
        let known: HashSet<String> = tokens.iter().map(|(token, _)| token.id.to_string()).collect();
        let before = tokens.len();
        tokens.retain(|(_, made_by)| made_by.as_ref().is_none_or(|maker| known.contains(maker)));
        if tokens.len() == before {
            return tokens.into_iter().map(|(token, _)| token).collect();
        }
    }
}

/// Records when a token was last used.
pub async fn used(database: &Database, id: TokenId, at: DateTime<Utc>) -> Result<(), TableError> {
    const USED: &str = "UPDATE api_tokens SET last_used_at = $2
        WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)";
    in_either!(database, sqlx::query(USED).bind(id.to_string()).bind(at), execute => rows_affected)?;
    Ok(())
}

type ValidRow = (
    String,
    String,
    Vec<u8>,
    String,
    Option<String>,
    DateTime<Utc>,
    Option<DateTime<Utc>>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);
type EnteredRow = (
    String,
    String,
    String,
    Option<String>,
    DateTime<Utc>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// Reads a row; `None` if it was inserted by hand with an invalid id.
fn entered(row: EnteredRow) -> Option<Entered> {
    let (id, name, scopes, environments, created_at, expires_at, revoked_at, last_used_at, made_by, ..) = row;
    let restrictions = [row.9.as_deref(), row.10.as_deref(), row.11.as_deref()];
    Some(Entered {
        id: TokenId::parse(&id)?,
        name,
        grant: Grant::read(&scopes, environments.as_deref(), restrictions, row.12.as_deref()),
        created_at,
        expires_at,
        revoked_at,
        last_used_at,
        made_by: made_by.as_deref().and_then(TokenId::parse),
    })
}

#[cfg(test)]
#[path = "table_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
