//! Asks Unleash which tokens are valid: many in one call, each once at a time, and within a rate.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{Secret, TokenKind};
use crate::feed::unleash::{Client, chain};
use crate::log_limit::{LogLimit, limited};
use crate::metrics::{OutcomeLabels, UnleashApiMetrics};
use crate::shutdown::Shutdown;

use super::cache::{Cache, Known};
use super::disk::TokenFile;
use super::table::TokenTable;
use super::{Access, Selection, TokenHash, hash};

/// Time for which tokens are collected before Unleash is asked about all of them.
const COLLECT_TIMEOUT: Duration = Duration::from_millis(50);
/// Minimum interval between two calls to Unleash.
const MIN_CALL_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum tokens of one call.
pub const MAX_BATCH_TOKENS: usize = 100;
/// Maximum unknown tokens that wait for their validation.
pub const MAX_PENDING_TOKENS: usize = 1_024;
/// Time after a failed call in which no other call is made.
const FAILURE_BACKOFF: Duration = Duration::from_secs(1);
/// Maximum size of an answer, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Longest interval between two checks for tokens that are due to be validated again.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Timeout of one statement in the database.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Result of asking about a token.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Valid(Arc<Known>),
    Invalid,
    Undetermined,
}

type Waiting = watch::Receiver<Option<Answer>>;

/// Tokens that wait for their validation.
#[derive(Debug, Default)]
pub(super) struct Pending {
    questions: Mutex<HashMap<TokenHash, Question>>,
    arrived: Notify,
}

#[derive(Debug)]
struct Question {
    text: Secret,
    /// Whether the token is part of a call that is being made.
    is_asked: bool,
    answer: watch::Sender<Option<Answer>>,
}

/// The task that asks Unleash.
#[derive(Debug)]
pub(super) struct Validator {
    pub client: Arc<Client>,
    pub pending: Arc<Pending>,
    pub cache: Arc<Cache>,
    pub file: TokenFile,
    pub table: Option<TokenTable>,
    pub revalidation: Duration,
    pub metrics: UnleashApiMetrics,
}

/// Answer of Unleash: the valid ones among the tokens.
#[derive(Debug, Deserialize)]
struct ValidTokens {
    tokens: Vec<ValidToken>,
}

#[derive(Debug, Deserialize)]
struct ValidToken {
    token: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    projects: BTreeSet<String>,
    environment: Option<String>,
}

/// Reason why Unleash has not answered.
#[derive(Debug)]
enum CallError {
    /// The call itself is refused, perhaps because of one of its tokens.
    Refused(String),
    Failed(String),
}

impl Pending {
    /// Waits for the answer about a token; calls with the same token share one. `None` if too many wait.
    pub fn ask(&self, hash: TokenHash, text: &str) -> Option<Waiting> {
        let mut questions = self.lock();
        if let Some(question) = questions.get(&hash) {
            return Some(question.answer.subscribe());
        }
        if questions.len() >= MAX_PENDING_TOKENS {
            return None;
        }
        let (answer, waiting) = watch::channel(None);
        questions.insert(hash, Question { text: Secret::new(text), is_asked: false, answer });
        drop(questions);
        self.arrived.notify_one();
        Some(waiting)
    }

    /// Takes tokens for one call.
    fn take(&self) -> Vec<Secret> {
        let mut questions = self.lock();
        let new = questions.values_mut().filter(|question| !question.is_asked).take(MAX_BATCH_TOKENS);
        new.map(|question| {
            question.is_asked = true;
            question.text.clone()
        })
        .collect()
    }

    fn answer(&self, hash: &TokenHash, answer: Answer) {
        if let Some(question) = self.lock().remove(hash) {
            question.answer.send_replace(Some(answer));
        }
    }

    fn has_new(&self) -> bool {
        self.lock().values().any(|question| !question.is_asked)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenHash, Question>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Validator {
    pub async fn run(self, shutdown: Shutdown) {
        let interval = (self.revalidation / 10).clamp(MIN_CALL_INTERVAL, MAX_CHECK_INTERVAL);
        let mut check_at = Instant::now() + interval;
        let mut next_call = Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.pending.arrived.notified() => sleep(COLLECT_TIMEOUT).await,
                () = sleep_until(check_at) => {}
            }
            while self.pending.has_new() && !shutdown.is_cancelled() {
                sleep_until(next_call).await;
                next_call = self.validate(self.pending.take()).await;
            }
            if check_at <= Instant::now() {
                check_at = Instant::now() + interval;
                sleep_until(next_call).await;
                next_call = self.revalidate().await.unwrap_or(next_call);
            }
            self.save_file().await;
        }
        self.save_file().await;
    }

    /// Asks about tokens that calls wait for. Returns the earliest time of the next call.
    async fn validate(&self, tokens: Vec<Secret>) -> Instant {
        let mut batches = vec![tokens];
        while let Some(batch) = batches.pop().filter(|batch| !batch.is_empty()) {
            match self.call(&batch).await {
                Ok(valid) => self.settle(&batch, &valid).await,
                Err(CallError::Refused(_)) if batch.len() > 1 => {
                    // One token may be the reason, so the others are asked about separately.
                    let (one, other) = batch.split_at(batch.len() / 2);
                    batches.extend([one.to_vec(), other.to_vec()]);
                    sleep(MIN_CALL_INTERVAL).await;
                }
                Err(CallError::Refused(_)) => self.settle(&batch, &[]).await,
                Err(CallError::Failed(error)) => {
                    self.note_failure(&error);
                    self.consult_table(&batch).await;
                    for batch in batches {
                        self.consult_table(&batch).await;
                    }
                    return Instant::now() + FAILURE_BACKOFF;
                }
            }
        }
        Instant::now() + MIN_CALL_INTERVAL
    }

    /// Asks again about known tokens whose last validation is too old. `None` if there are none.
    async fn revalidate(&self) -> Option<Instant> {
        let due = self.cache.due(self.revalidation, MAX_BATCH_TOKENS);
        let tokens: Vec<Secret> = due.iter().filter_map(|known| known.text().cloned()).collect();
        if tokens.is_empty() {
            return None;
        }
        match self.call(&tokens).await {
            Ok(valid) => {
                self.settle(&tokens, &valid).await;
                Some(Instant::now() + MIN_CALL_INTERVAL)
            }
            Err(CallError::Failed(error) | CallError::Refused(error)) => {
                self.note_failure(&error);
                Some(Instant::now() + FAILURE_BACKOFF)
            }
        }
    }

    async fn call(&self, tokens: &[Secret]) -> Result<Vec<ValidToken>, CallError> {
        let tokens: Vec<&str> = tokens.iter().map(Secret::expose).collect();
        let request = self.client.validate().json(&serde_json::json!({ "tokens": tokens }));
        let response = request.send().await.map_err(|error| CallError::Failed(chain(error)))?;
        let status = response.status();
        if matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) {
            return Err(CallError::Refused(format!("status {status}")));
        }
        if status != StatusCode::OK {
            return Err(CallError::Failed(format!("status {status}")));
        }
        let body = crate::feed::unleash::read_body(response, MAX_ANSWER_BYTES).await;
        let body = body.map_err(|error| CallError::Failed(error.to_string()))?;
        let valid: ValidTokens = serde_json::from_slice(&body)
            .map_err(|error| CallError::Failed(format!("the answer: {error}")))?;
        Ok(valid.tokens)
    }

    /// Takes over an answer of Unleash about these tokens.
    async fn settle(&self, asked: &[Secret], valid: &[ValidToken]) {
        let now_ms = Utc::now().timestamp_millis();
        let mut known = Vec::new();
        for token in asked {
            let hash = hash(token.expose());
            let found = valid.iter().find(|valid| valid.token == token.expose());
            let answer = match found.and_then(access) {
                Some(access) => {
                    self.count("valid");
                    let added = self.cache.add(Known::new(hash, access, now_ms, Some(token.expose())));
                    known.push(Arc::clone(&added));
                    Answer::Valid(added)
                }
                None => {
                    self.count("invalid");
                    if self.cache.refuse(hash) {
                        tracing::info!(
                            "a token of an Unleash SDK is no longer valid; it is refused from now on"
                        );
                    }
                    self.with_table(async |table| table.remove(&hash).await).await;
                    Answer::Invalid
                }
            };
            self.pending.answer(&hash, answer);
        }
        if !known.is_empty() {
            self.with_table(async |table| table.save(&known).await).await;
        }
        self.metrics.tokens.set(i64::try_from(self.cache.len()).unwrap_or(i64::MAX));
    }

    /// Answers from the database, because Unleash cannot be asked.
    async fn consult_table(&self, tokens: &[Secret]) {
        let hashes: Vec<TokenHash> = tokens.iter().map(|token| hash(token.expose())).collect();
        let found = self.with_table(async |table| table.find(&hashes).await).await.unwrap_or_default();
        for known in found {
            let added = self.cache.add(known);
            self.pending.answer(&added.hash, Answer::Valid(Arc::clone(&added)));
        }
        for hash in &hashes {
            self.pending.answer(hash, Answer::Undetermined);
        }
    }

    /// Runs a statement; `None` without a database, or if the statement fails.
    async fn with_table<T>(
        &self,
        run: impl AsyncFnOnce(&TokenTable) -> Result<T, crate::database::DatabaseError>,
    ) -> Option<T> {
        static LIMIT: LogLimit = LogLimit::new();
        let table = self.table.as_ref()?;
        match tokio::time::timeout(DATABASE_TIMEOUT, run(table)).await {
            Ok(Ok(done)) => Some(done),
            Ok(Err(error)) => {
                if let Some(suppressed) = LIMIT.admit() {
                    tracing::warn!(%error, suppressed, "the table of Unleash tokens cannot be used; they are kept in \
                        memory and on disk");
                }
                None
            }
            Err(_) => None,
        }
    }

    async fn save_file(&self) {
        if !self.cache.take_changed() {
            return;
        }
        let (file, tokens) = (self.file.clone(), self.cache.all());
        let written = tokio::task::spawn_blocking(move || file.write(&tokens)).await;
        if let Ok(Err(error)) = written {
            limited!(
                warn,
                %error,
                "the validated tokens of Unleash's SDKs cannot be saved; after a restart they are validated again",
            );
        }
    }

    fn note_failure(&self, error: &str) {
        static LIMIT: LogLimit = LogLimit::new();
        self.count("failed");
        if let Some(suppressed) = LIMIT.admit() {
            tracing::warn!(
                error,
                suppressed,
                "Unleash cannot be asked which tokens are valid; known ones stay valid"
            );
        }
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.validations.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}

/// Permissions of a valid token; `None` for a token that is not for SDKs (admin tokens).
fn access(token: &ValidToken) -> Option<Access> {
    let kind = TokenKind::of_name(token.kind.as_deref()?)?;
    let environment = token.environment.as_deref().filter(|name| !name.is_empty() && *name != "*")?;
    let projects = (!token.projects.contains("*")).then(|| token.projects.clone());
    Some(Access { kind: Some(kind), selection: Selection::of_projects(environment, projects) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn permitted(mut token: Value) -> Option<Access> {
        token["token"] = "[]:development.v2_selector_secret".into();
        access(&serde_json::from_value(token).unwrap())
    }

    #[test]
    fn a_token_permits_the_projects_that_unleash_names_whatever_its_text_says() {
        let projects = |names: &[&str]| {
            let token = json!({"type": "client", "environment": "development", "projects": names});
            permitted(token).unwrap().selection.projects
        };
        let set = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(projects(&["shop"]), set(&["shop"]));
        assert_eq!(projects(&["shop", "pay", "shop"]), set(&["pay", "shop"]));
        assert_eq!(projects(&["*"]), None);
        assert_eq!(projects(&["shop", "*"]), None);
        assert_eq!(projects(&[]), set(&[]), "none is not all");
        let unnamed = permitted(json!({"type": "client", "environment": "development"})).unwrap();
        assert_eq!(unnamed.selection.projects, set(&[]));
    }

    #[test]
    fn only_tokens_for_sdks_of_one_environment_are_accepted() {
        let kind = |name: Value| {
            permitted(json!({"type": name, "environment": "development", "projects": ["*"]}))
                .and_then(|access| access.kind)
        };
        assert_eq!(kind(json!("client")), Some(TokenKind::Backend));
        assert_eq!(kind(json!("backend")), Some(TokenKind::Backend));
        assert_eq!(kind(json!("frontend")), Some(TokenKind::Frontend));
        assert_eq!((kind(json!("admin")), kind(json!("")), kind(Value::Null)), (None, None, None));
        for environment in [json!("*"), json!(""), Value::Null] {
            let token = json!({"type": "client", "environment": environment, "projects": ["*"]});
            assert!(permitted(token).is_none(), "{environment}");
        }
    }
}
