//! Tokens of Unleash's SDKs.
//!
//! ```text
//!  token ─► pre-trusted ─► known (memory; at start from disk) ─► Unleash: one call for many tokens
//!                              ▲                                    │ unreachable
//!                              └────────── database ◄───────────────┘
//! ```
//!
//! Tokens are kept as SHA-256 hashes, in memory, on disk and in the database where there is one, so that a restart while
//! Unleash is unreachable serves them. A token is revoked only if Unleash explicitly says that it is not valid.

pub mod cache;
mod disk;
mod table;
mod validate;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::config::{Config, TokenKind};
use crate::database::Database;
use crate::feed::unleash::Client;
use crate::metrics::UnleashApiMetrics;
use crate::shutdown::Shutdown;

use super::selection::Selection;
use cache::{Cache, Known, Lookup};
use disk::TokenFile;
use table::TokenTable;
use validate::{Answer, Pending, Validator};

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// Maximum length of a token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 1_024;
/// How long a call waits until Unleash has validated its token.
const VALIDATION_TIMEOUT: Duration = Duration::from_secs(5);

/// Permissions of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// SDKs that the token is for; `None`: any.
    pub kind: Option<TokenKind>,
    pub selection: Selection,
}

/// Result of looking a token up.
#[derive(Debug, Clone)]
pub enum Found {
    /// Accepted because the configuration says so.
    Pretrusted(Arc<Access>),
    Valid(Arc<Known>),
    /// Unleash, or the configuration, says that there is no such token.
    Invalid,
    /// Unleash cannot be asked now. Contains the reason.
    Undetermined(&'static str),
}

/// All tokens that this process knows.
#[derive(Debug)]
pub struct Tokens {
    pretrusted: HashMap<TokenHash, Arc<Access>>,
    cache: Arc<Cache>,
    /// `None` without Unleash: then there are no other tokens.
    pending: Option<Arc<Pending>>,
    validator: std::sync::Mutex<Option<Validator>>,
}

impl Tokens {
    pub fn new(
        config: &Config,
        client: Option<Arc<Client>>,
        database: Option<Database>,
        metrics: UnleashApiMetrics,
    ) -> Arc<Self> {
        let pretrusted = config.unleash_api.pretrusted_tokens.iter().map(|token| {
            let selection = Selection::of_projects(&token.environment, token.projects.clone());
            (hash(token.text.expose()), Arc::new(Access { kind: Some(token.kind), selection }))
        });
        let cache = Arc::new(Cache::default());
        let file = TokenFile::new(&config.state_dir);
        cache.restore(file.read());
        let pending = client.is_some().then(|| Arc::new(Pending::default()));
        let validator = client.zip(pending.clone()).map(|(client, pending)| Validator {
            client,
            pending,
            cache: Arc::clone(&cache),
            file,
            table: database.map(TokenTable::new),
            revalidation: config.unleash_api.token_revalidation,
            metrics,
        });
        Arc::new(Self {
            pretrusted: pretrusted.collect(),
            cache,
            pending,
            validator: std::sync::Mutex::new(validator),
        })
    }

    /// Validates tokens until shutdown.
    pub async fn run(&self, shutdown: Shutdown) {
        let validator = self.validator.lock().ok().and_then(|mut validator| validator.take());
        match validator {
            Some(validator) => validator.run(shutdown).await,
            None => shutdown.cancelled().await,
        }
    }

    /// Looks up a token, and asks Unleash if it is not known.
    pub async fn find(&self, text: &str) -> Found {
        if text.len() > MAX_TOKEN_BYTES {
            return Found::Invalid;
        }
        let hash = hash(text);
        if let Some(access) = self.pretrusted.get(&hash) {
            return Found::Pretrusted(Arc::clone(access));
        }
        match self.cache.find(&hash, text) {
            Lookup::Valid(known) => return Found::Valid(known),
            Lookup::Invalid => return Found::Invalid,
            Lookup::Unknown => {}
        }
        let Some(pending) = &self.pending else { return Found::Invalid };
        let Some(mut answer) = pending.ask(hash, text) else {
            return Found::Undetermined("too many unknown tokens wait for their validation");
        };
        let answered = timeout(VALIDATION_TIMEOUT, answer.wait_for(Option::is_some)).await;
        match answered {
            Ok(Ok(answer)) => match &*answer {
                Some(Answer::Valid(known)) => Found::Valid(Arc::clone(known)),
                Some(Answer::Invalid) => Found::Invalid,
                _ => Found::Undetermined("Unleash cannot be asked whether the token is valid"),
            },
            _ => Found::Undetermined("Unleash did not say in time whether the token is valid"),
        }
    }

    /// Tokens that Unleash has validated.
    pub fn known(&self) -> Vec<Arc<Known>> {
        self.cache.all()
    }

    /// Number of pre-trusted tokens.
    pub fn pretrusted(&self) -> impl Iterator<Item = &Arc<Access>> {
        self.pretrusted.values()
    }
}

pub fn hash(text: &str) -> TokenHash {
    Sha256::digest(text.as_bytes()).into()
}
