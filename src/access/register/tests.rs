//! Tests of the register with SQLite, including changes and loss of the table.
#![allow(clippy::unwrap_used)]

use std::task::Poll;

use super::*;
use crate::access::{Order, table};
use crate::config::Secret;
use crate::database::audited::Author;
use crate::health::Reporter;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

const BY: Author<'static> = Author { actor: "test", reason: None };

struct Scene {
    database: Database,
    register: Arc<Register>,
    shutdown: Shutdown,
    _folder: tempfile::TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Scene {
    async fn start(max_age: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        let database = Database::open(&Secret::new(url), "test").unwrap();
        database.migrate().await.unwrap();
        let config = AuthConfig {
            anonymous_scopes: Vec::new(),
            anonymous_by_default: false,
            bootstrap_token: None,
            tokens_max_age: max_age,
            token_calls_per_second: NonZeroU32::new(1),
            anonymous_calls_per_second: None,
            anonymous_answers_per_second: None,
        };
        let register = Register::new(database.clone(), &config);
        let shutdown = Shutdown::new();
        let (running, stop) = (Arc::clone(&register), shutdown.clone());
        let metrics = Metrics::new().access.clone();
        tokio::spawn(async move { running.run(stop, Reporter::detached(), metrics).await });
        Self { database, register, shutdown, _folder: folder }
    }

    async fn token(&self, expires_in: Option<&str>) -> Token {
        let order = Order::check("test", &["read"], &["*"], expires_in).unwrap();
        table::create(&self.database, &order, BY).await.unwrap().0
    }

    async fn run(&self, statement: &'static str) {
        let Database::Sqlite(sqlite) = &self.database else { unreachable!() };
        sqlx::raw_sql(statement).execute(&sqlite.pool).await.unwrap();
    }

    async fn is_valid(&self, token: &Token) -> bool {
        matches!(self.register.find(token).await, Found::Valid(_))
    }

    /// Waits until the lookup of a token has the wanted result.
    async fn until(&self, token: &Token, wanted: fn(&Found) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let found = self.register.find(token).await;
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
    let scene = Scene::start(Duration::from_secs(60)).await;
    let token = scene.token(None).await;
    assert!(scene.is_valid(&token).await);
    let Found::Valid(entry) = scene.register.find(&token).await else { unreachable!() };
    assert_eq!(entry.call(), Ok(()));
    // Another token does not affect this one: its rate limit state is kept.
    assert!(scene.is_valid(&scene.token(None).await).await);
    let Found::Valid(same) = scene.register.find(&token).await else { unreachable!() };
    assert!(same.call().is_err());
    let void = tokio::spawn({
        let (register, entry) = (Arc::clone(&scene.register), Arc::clone(&entry));
        async move { register.until_void(&entry).await }
    });
    table::revoke(&scene.database, token.id, BY).await.unwrap();
    timeout(Duration::from_secs(10), void).await.unwrap().unwrap();
    assert!(matches!(scene.register.find(&token).await, Found::Unknown));
}

#[tokio::test]
async fn a_token_ends_by_itself_and_needs_its_secret() {
    let scene = Scene::start(Duration::from_secs(60)).await;
    let token = scene.token(Some("1s")).await;
    let Found::Valid(entry) = scene.register.find(&token).await else { panic!("not found") };
    timeout(Duration::from_secs(10), scene.register.until_void(&entry)).await.unwrap();
    assert!(matches!(scene.register.find(&token).await, Found::Unknown));
    let other = scene.token(None).await;
    assert!(scene.is_valid(&other).await);
    let forged = Token { id: other.id, ..Token::generate() };
    assert!(matches!(scene.register.find(&forged).await, Found::Unknown));
}

#[tokio::test]
async fn made_up_tokens_cost_neither_memory_nor_questions() {
    let scene = Scene::start(Duration::from_secs(60)).await;
    let known = scene.token(None).await;
    assert!(scene.is_valid(&known).await);
    let before = scene.register.looks.borrow().begun;
    let begun = Instant::now();
    let calls = (0..5_000).map(|_| {
        let register = Arc::clone(&scene.register);
        tokio::spawn(async move { register.find(&Token::generate()).await })
    });
    for call in calls.collect::<Vec<_>>() {
        // A request that finds no waiting slot is answered as unavailable, not as unknown.
        assert!(matches!(call.await.unwrap(), Found::Unknown | Found::Unavailable));
    }
    let looks = scene.register.looks.borrow().begun - before;
    let paced = begun.elapsed().as_millis() / LOOK_PAUSE.as_millis() + 2;
    assert!(u128::from(looks) <= paced, "{looks} looks in {:?}", begun.elapsed());
    let unknown = Token::generate();
    assert!(matches!(scene.register.find(&unknown).await, Found::Unknown));
    for _ in 0..ABSENT_TOKENS_MAX {
        scene.register.note_absent(Token::generate().id);
    }
    assert!(scene.register.absent.lock().unwrap().len() <= ABSENT_TOKENS_MAX);
    assert_eq!(scene.register.len(), 1);
    assert!(scene.is_valid(&known).await);
}

#[tokio::test]
async fn without_the_table_known_tokens_count_for_a_while_and_others_cannot_be_told() {
    let max_age = Duration::from_secs(8);
    let scene = Scene::start(max_age).await;
    let (known, other) = (scene.token(None).await, scene.token(None).await);
    // A read may have happened between the two creations, so both are looked up.
    assert!(scene.is_valid(&known).await && scene.is_valid(&other).await);
    scene.run("ALTER TABLE api_token_revision RENAME TO elsewhere").await;
    scene.until(&Token::generate(), |found| matches!(found, Found::Unavailable)).await;
    assert!(scene.is_valid(&known).await && scene.is_valid(&other).await);
    // While reads are known to fail, requests do not wait.
    let mut at_once = false;
    for _ in 0..50 {
        let unknown = Token::generate();
        let mut found = std::pin::pin!(scene.register.find(&unknown));
        // One read that is still in progress may delay the first result.
        let first = std::future::poll_fn(|context| Poll::Ready(found.as_mut().poll(context))).await;
        at_once |= matches!(first, Poll::Ready(Found::Unavailable));
    }
    assert!(at_once);
    scene.until(&known, |found| matches!(found, Found::Unavailable)).await;
    assert!(scene.register.age() > max_age);
    scene.run("ALTER TABLE elsewhere RENAME TO api_token_revision").await;
    scene.until(&known, |found| matches!(found, Found::Valid(_))).await;
}

#[tokio::test]
async fn uses_are_noted() {
    let scene = Scene::start(Duration::from_secs(60)).await;
    let token = scene.token(None).await;
    let Found::Valid(entry) = scene.register.find(&token).await else { panic!("not found") };
    let _ = entry.call();
    scene.register.note_uses().await.unwrap();
    let noted = table::find(&scene.database, token.id).await.unwrap().unwrap().last_used_at;
    assert!((Utc::now() - noted.unwrap()).num_seconds() < 10);
    assert_eq!(entry.take_use(), None);
}
