//! Tests of the register with SQLite, including changes and loss of the table.
#![allow(clippy::unwrap_used)]

use std::task::Poll;

use super::*;
use crate::auth::{NewToken, table};
use crate::config::Secret;
use crate::database::audited::Actor;
use crate::health::Reporter;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

const ACTOR: Actor<'static> = Actor { actor: "test", reason: None };

struct Fixture {
    database: Database,
    token_cache: Arc<TokenCache>,
    shutdown: Shutdown,
    _folder: tempfile::TempDir,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn config(tokens_max_age: Duration) -> AuthConfig {
    AuthConfig {
        anonymous_scopes: Vec::new(),
        anonymous_by_default: false,
        bootstrap_token: None,
        tokens_max_age,
        token_calls_per_second: NonZeroU32::new(1),
        anonymous_calls_per_second: None,
        anonymous_answers_per_second: None,
        user_header: None,
        trusted_proxies: Vec::new(),
    }
}

impl Fixture {
    async fn start(max_age: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        let database = Database::open(&Secret::new(url), "test").unwrap();
        database.migrate().await.unwrap();
        let token_cache = TokenCache::new(database.clone(), &config(max_age));
        let shutdown = Shutdown::new();
        let (running, stop) = (Arc::clone(&token_cache), shutdown.clone());
        let metrics = Metrics::new().access.clone();
        tokio::spawn(async move { running.run(stop, Reporter::detached(), metrics).await });
        Self { database, token_cache, shutdown, _folder: folder }
    }

    /// A cache with the tokens of the table that no task refreshes.
    async fn still(&self) -> Arc<TokenCache> {
        let token_cache = TokenCache::new(self.database.clone(), &config(Duration::from_secs(60)));
        token_cache.replace(table::valid(&self.database).await.unwrap(), Instant::now());
        token_cache
    }

    async fn token(&self, expires_in: Option<&str>) -> Token {
        let new_token = NewToken::check("test", &["read"], &["*"], expires_in).unwrap();
        table::create(&self.database, &new_token, ACTOR).await.unwrap().0
    }

    async fn run(&self, statement: &'static str) {
        let Database::Sqlite(sqlite) = &self.database else { unreachable!() };
        sqlx::raw_sql(statement).execute(&sqlite.pool).await.unwrap();
    }

    async fn is_valid(&self, token: &Token) -> bool {
        matches!(self.token_cache.find(token).await, TokenLookup::Valid(_))
    }

    /// Waits until the lookup of a token has the wanted result.
    async fn until(&self, token: &Token, wanted: fn(&TokenLookup) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let found = self.token_cache.find(token).await;
            if wanted(&found) {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_new_token_works_at_once_and_a_revoked_one_soon_no_more() {
    let fixture = Fixture::start(Duration::from_secs(60)).await;
    let token = fixture.token(None).await;
    assert!(fixture.is_valid(&token).await);
    let TokenLookup::Valid(entry) = fixture.token_cache.find(&token).await else { unreachable!() };
    assert_eq!(entry.call(), Ok(()));
    // Another token does not affect this one: its rate limit state is kept.
    assert!(fixture.is_valid(&fixture.token(None).await).await);
    let TokenLookup::Valid(same) = fixture.token_cache.find(&token).await else { unreachable!() };
    assert!(same.call().is_err());
    let void = tokio::spawn({
        let (token_cache, entry) = (Arc::clone(&fixture.token_cache), Arc::clone(&entry));
        async move { token_cache.until_void(&entry).await }
    });
    table::revoke(&fixture.database, token.id, ACTOR).await.unwrap();
    timeout(Duration::from_secs(10), void).await.unwrap().unwrap();
    assert!(matches!(fixture.token_cache.find(&token).await, TokenLookup::Unknown));
}

#[tokio::test]
async fn a_token_ends_by_itself_and_needs_its_secret() {
    let fixture = Fixture::start(Duration::from_secs(60)).await;
    let token = fixture.token(Some("1s")).await;
    let TokenLookup::Valid(entry) = fixture.token_cache.find(&token).await else { panic!("not found") };
    timeout(Duration::from_secs(10), fixture.token_cache.until_void(&entry)).await.unwrap();
    assert!(matches!(fixture.token_cache.find(&token).await, TokenLookup::Unknown));
    let other = fixture.token(None).await;
    assert!(fixture.is_valid(&other).await);
    let forged = Token { id: other.id, ..Token::generate() };
    assert!(matches!(fixture.token_cache.find(&forged).await, TokenLookup::Unknown));
}

#[tokio::test]
async fn made_up_tokens_cost_neither_memory_nor_questions() {
    let fixture = Fixture::start(Duration::from_secs(60)).await;
    let known = fixture.token(None).await;
    assert!(fixture.is_valid(&known).await);
    let before = fixture.token_cache.looks.borrow().begun;
    let begun = Instant::now();
    let calls = (0..5_000).map(|_| {
        let token_cache = Arc::clone(&fixture.token_cache);
        tokio::spawn(async move { token_cache.find(&Token::generate()).await })
    });
    for call in calls.collect::<Vec<_>>() {
        // A request that finds no waiting slot is answered as unavailable, not as unknown.
        assert!(matches!(call.await.unwrap(), TokenLookup::Unknown | TokenLookup::Unavailable));
    }
    let looks = fixture.token_cache.looks.borrow().begun - before;
    let paced = begun.elapsed().as_millis() / REFRESH_INTERVAL.as_millis() + 2;
    assert!(u128::from(looks) <= paced, "{looks} looks in {:?}", begun.elapsed());
    let unknown = Token::generate();
    assert!(matches!(fixture.token_cache.find(&unknown).await, TokenLookup::Unknown));
    for _ in 0..ABSENT_TOKENS_MAX {
        fixture.token_cache.note_absent(Token::generate().id);
    }
    assert!(fixture.token_cache.absent.lock().unwrap().len() <= ABSENT_TOKENS_MAX);
    assert_eq!(fixture.token_cache.len(), 1);
    assert!(fixture.is_valid(&known).await);
}

#[tokio::test]
async fn without_the_table_known_tokens_count_for_a_while_and_others_cannot_be_told() {
    let max_age = Duration::from_secs(8);
    let fixture = Fixture::start(max_age).await;
    let (known, other) = (fixture.token(None).await, fixture.token(None).await);
    // A read may have happened between the two creations, so both are looked up.
    assert!(fixture.is_valid(&known).await && fixture.is_valid(&other).await);
    fixture.run("ALTER TABLE api_token_revision RENAME TO elsewhere").await;
    fixture.until(&Token::generate(), |found| matches!(found, TokenLookup::Unavailable)).await;
    assert!(fixture.is_valid(&known).await && fixture.is_valid(&other).await);
    // While reads are known to fail, requests do not wait.
    let mut at_once = false;
    for _ in 0..50 {
        let unknown = Token::generate();
        let mut found = std::pin::pin!(fixture.token_cache.find(&unknown));
        // One read that is still in progress may delay the first result.
        let first = std::future::poll_fn(|context| Poll::Ready(found.as_mut().poll(context))).await;
        at_once |= matches!(first, Poll::Ready(TokenLookup::Unavailable));
    }
    assert!(at_once);
    fixture.until(&known, |found| matches!(found, TokenLookup::Unavailable)).await;
    assert!(fixture.token_cache.age() > max_age);
    fixture.run("ALTER TABLE elsewhere RENAME TO api_token_revision").await;
    fixture.until(&known, |found| matches!(found, TokenLookup::Valid(_))).await;
}

#[tokio::test]
async fn uses_are_noted() {
    let fixture = Fixture::start(Duration::from_secs(60)).await;
    let token = fixture.token(None).await;
    let TokenLookup::Valid(entry) = fixture.token_cache.find(&token).await else { panic!("not found") };
    let _ = entry.call();
    fixture.token_cache.note_uses().await.unwrap();
    let noted = table::find(&fixture.database, token.id).await.unwrap().unwrap().last_used_at;
    assert!((Utc::now() - noted.unwrap()).num_seconds() < 10);
    assert_eq!(entry.unwritten_use(), None);
}

#[tokio::test]
async fn a_use_whose_write_is_cancelled_or_fails_is_written_later() {
    let fixture = Fixture::start(Duration::from_secs(60)).await;
    let token = fixture.token(None).await;
    let token_cache = fixture.still().await;
    let Some(TokenLookup::Valid(entry)) = token_cache.find_known(&token) else { panic!("not found") };
    let _ = entry.call();
    let used = entry.unwritten_use().unwrap();
    {
        // Cancelled while it waits for another writer of the database, as the timeout of a read does it.
        let Database::Sqlite(sqlite) = &fixture.database else { unreachable!() };
        let _other = sqlite.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let mut writing = std::pin::pin!(token_cache.note_uses());
        let first = std::future::poll_fn(|context| Poll::Ready(writing.as_mut().poll(context))).await;
        assert!(first.is_pending());
    }
    assert_eq!(entry.unwritten_use(), Some(used), "cancelled");
    fixture.run("ALTER TABLE api_tokens RENAME TO elsewhere").await;
    assert!(token_cache.note_uses().await.is_err());
    assert_eq!(entry.unwritten_use(), Some(used), "failed");
    fixture.run("ALTER TABLE elsewhere RENAME TO api_tokens").await;
    token_cache.note_uses().await.unwrap();
    assert_eq!(entry.unwritten_use(), None);
    let noted = table::find(&fixture.database, token.id).await.unwrap().unwrap().last_used_at;
    assert_eq!(noted, Some(used));
}

#[tokio::test]
async fn a_use_survives_a_change_of_its_token() {
    let fixture = Fixture::start(Duration::from_secs(60)).await;
    let token = fixture.token(None).await;
    let token_cache = fixture.still().await;
    let Some(TokenLookup::Valid(entry)) = token_cache.find_known(&token) else { panic!("not found") };
    let _ = entry.call();
    let changed = Valid { name: "renamed".to_owned(), ..entry.valid.clone() };
    token_cache.replace(vec![changed], Instant::now());
    let Some(TokenLookup::Valid(after)) = token_cache.find_known(&token) else { panic!("not found") };
    assert_eq!(after.valid.name, "renamed");
    assert_eq!(after.unwritten_use(), entry.unwritten_use());
    assert!(after.unwritten_use().is_some());
}
