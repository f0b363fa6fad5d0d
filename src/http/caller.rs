//! Authentication and authorization of callers, and their rate limits.

mod authorized;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use subtle::ConstantTimeEq;

use crate::auth::{
    Addresses, CachedToken, Environments, Grant, Outside, Restrictions, Token, TokenCache, TokenId,
    TokenLookup, TooFast, TooMuch,
};
use crate::config::{AuthConfig, Scope, Secret, TokenKind};

use super::Problem;
use super::api::Api;

pub use authorized::{Authorized, RequiredScope, scope};

/// `Retry-After` in seconds when the token table cannot be read.
const TOKENS_RETRY_SECONDS: u32 = 2;
/// Header of OpenFeature's protocol that carries a token, as an alternative to `Authorization`.
const API_KEY_HEADER: &str = "x-api-key";
/// Lookups of unknown tokens per second and address. Further ones are refused without reading the token table, so that
/// guessing tokens does not delay callers with a token that was just created.
const UNKNOWN_TOKENS_PER_SECOND: NonZeroU32 = match NonZeroU32::new(50) {
    Some(rate) => rate,
    None => NonZeroU32::MIN,
};

/// Longest name of a person in the header of an authenticating proxy, in bytes.
const MAX_PERSON_BYTES: usize = 255;

/// Caller of a route. A handler with a fixed scope takes [`Authorized`] instead, which checks that scope. Other handlers
/// check [`Caller::may`] or [`Caller::may_in`] themselves.
#[derive(Debug, Clone)]
pub struct Caller {
    who: Who,
    /// Person whom a trusted proxy named.
    person: Option<Arc<str>>,
}

#[derive(Debug, Clone)]
enum Who {
    /// Caller without a token: a request that is refused might be allowed with one.
    Anonymous(Arc<Grant>, Option<IpAddr>),
    Bootstrap(Secret),
    Token(Arc<CachedToken>, Arc<TokenCache>),
}

/// IP address of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Authenticates callers.
#[derive(Debug)]
pub struct Authenticator {
    anonymous: Arc<Grant>,
    bootstrap: Option<Secret>,
    /// Rate limit of requests without a token, per address.
    addresses: Addresses,
    /// Rate limit of answers to requests without a token, per address.
    answers: Addresses,
    /// Rate limit of unknown tokens, per address.
    guesses: Addresses,
    /// `None` without a database.
    pub(super) token_cache: Option<Arc<TokenCache>>,
    /// Header with the name of a person, and the networks of the proxies that may send it.
    user_header: Option<(HeaderName, Vec<IpNet>)>,
}

impl From<Who> for Caller {
    fn from(who: Who) -> Self {
        Self { who, person: None }
    }
}

impl Caller {
    /// Checks that the caller has `scope` in some environment. The error is 401 without a token, 403 with one.
    pub fn may(&self, scope: Scope) -> Result<(), Problem> {
        if self.grant().is_none_or(|grant| grant.has(scope)) {
            return Ok(());
        }
        let name = scope.name();
        if matches!(self.who, Who::Anonymous(..)) {
            return Err(unauthorized(&format!("this request needs a token with the scope {name}"), ""));
        }
        let challenge = challenge(&format!(", error=\"insufficient_scope\", scope=\"{name}\""));
        let problem =
            Problem::new(StatusCode::FORBIDDEN, format!("the token does not have the scope {name}"));
        Err(problem.header(WWW_AUTHENTICATE, challenge))
    }

    /// Checks that the caller has `scope` in this environment.
    pub fn may_in(&self, scope: Scope, environment: &str) -> Result<(), Problem> {
        self.may(scope)?;
        self.check_sees(environment)
    }

    /// Checks that the caller may see this environment, whatever its scopes.
    fn check_sees(&self, environment: &str) -> Result<(), Problem> {
        if self.sees(environment) {
            return Ok(());
        }
        let detail = format!("the token does not permit the environment {environment}");
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }

    /// Checks that the caller has `scope` in all of these environments.
    pub fn may_in_all(&self, scope: Scope, environments: &Environments) -> Result<(), Problem> {
        self.may(scope)?;
        match self.grant().and_then(|grant| environments.beyond(&grant.environments)) {
            None => Ok(()),
            Some("*") => {
                let detail = "the token does not permit all environments";
                Err(Problem::new(StatusCode::FORBIDDEN, detail))
            }
            Some(environment) => self.may_in(scope, environment),
        }
    }

    /// Checks that the caller has `scope` in all environments and for all flags of a grant.
    pub fn may_grant(&self, scope: Scope, grant: &Grant) -> Result<(), Problem> {
        self.may_in_all(scope, &grant.environments)?;
        if let Some(own) = self.kind().filter(|own| grant.kind != Some(*own)) {
            let detail =
                format!("the token is for {} SDKs: so must be every token created with it", own.name());
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        Ok(grant.restrictions.check_within(self.restrictions())?)
    }

    /// Restrictions to certain flags. They apply to every scope of the caller.
    pub fn restrictions(&self) -> &Restrictions {
        self.grant().map_or(Restrictions::none(), |grant| &grant.restrictions)
    }

    /// Environments that the caller may see; `None`: all.
    pub fn environments(&self) -> Option<Vec<&str>> {
        match &self.grant()?.environments {
            Environments::All => None,
            listed @ Environments::Listed(_) => Some(listed.names()),
        }
    }

    /// Whether the caller may see this environment.
    pub fn sees(&self, environment: &str) -> bool {
        self.grant().is_none_or(|grant| grant.environments.contains(environment))
    }

    /// SDKs of Unleash that the caller's token is for; `None`: any.
    pub fn kind(&self) -> Option<TokenKind> {
        self.grant().and_then(|grant| grant.kind)
    }

    /// Name of the caller in change logs.
    ///
    /// A person whom a trusted proxy named comes first, with the token that the call used.
    pub fn name(&self) -> String {
        let token = match &self.who {
            Who::Anonymous(..) => "anonymous".to_owned(),
            Who::Bootstrap(_) => "bootstrap-token".to_owned(),
            Who::Token(entry, _) => format!("token:{}:{}", entry.valid.id, entry.valid.name),
        };
        match (&self.person, &self.who) {
            (None, _) => token,
            (Some(person), Who::Anonymous(..)) => format!("user:{person}"),
            (Some(person), _) => format!("user:{person} ({token})"),
        }
    }

    /// Names of the scopes that the caller has.
    pub fn scopes(&self) -> Vec<&'static str> {
        let has = |scope: &Scope| self.grant().is_none_or(|grant| grant.has(*scope));
        Scope::NAMES.iter().filter(|(_, scope)| has(scope)).map(|(name, _)| *name).collect()
    }

    /// Whether the caller was identified by a token.
    pub fn has_token(&self) -> bool {
        !matches!(self.who, Who::Anonymous(..))
    }

    /// Person whom a trusted proxy named.
    pub fn person(&self) -> Option<&str> {
        self.person.as_deref()
    }

    /// Completes when the caller's token is no longer valid; never for a caller without one. For long-lived responses.
    pub async fn until_void(self) {
        match self.who {
            Who::Anonymous(..) | Who::Bootstrap(_) => std::future::pending().await,
            Who::Token(entry, token_cache) => token_cache.until_void(&entry).await,
        }
    }

    /// Whether the caller may see for which users flags were evaluated.
    pub fn may_audit(&self) -> bool {
        self.grant().is_none_or(|grant| grant.has(Scope::Audit))
    }

    /// Token of the caller and its expiry; `None` without a token and for the bootstrap token.
    pub fn token(&self) -> Option<(TokenId, Option<DateTime<Utc>>)> {
        match &self.who {
            Who::Anonymous(..) | Who::Bootstrap(_) => None,
            Who::Token(entry, _) => Some((entry.valid.id, entry.valid.expires_at)),
        }
    }

    /// Id and key with which a ticket of the caller is signed; the bootstrap token has no id. `None` without a token.
    pub(super) fn signing_key(&self) -> Option<(Option<TokenId>, &[u8])> {
        match &self.who {
            Who::Anonymous(..) => None,
            Who::Bootstrap(secret) => Some((None, secret.expose().as_bytes())),
            Who::Token(entry, _) => Some((Some(entry.valid.id), entry.valid.hash.bytes())),
        }
    }

    /// Permissions of the caller; `None`: everything, everywhere.
    fn grant(&self) -> Option<&Grant> {
        match &self.who {
            Who::Anonymous(grant, _) => Some(grant),
            Who::Bootstrap(_) => None,
            Who::Token(entry, _) => Some(&entry.valid.grant),
        }
    }
}

impl Authenticator {
    /// Whether callers without a token have `scope`. Does not count against a rate limit.
    pub(super) fn may_without_token(&self, scope: Scope) -> bool {
        self.anonymous.has(scope)
    }

    pub fn new(config: &AuthConfig, token_cache: Option<Arc<TokenCache>>) -> Self {
        Self {
            anonymous: Arc::new(Grant::new(config.anonymous_scopes.clone(), Environments::All)),
            bootstrap: config.bootstrap_token.clone(),
            addresses: Addresses::new(config.anonymous_calls_per_second),
            answers: Addresses::new(config.anonymous_answers_per_second),
            guesses: Addresses::new(Some(UNKNOWN_TOKENS_PER_SECOND)),
            token_cache,
            user_header: config.user_header.clone().map(|name| (name, config.trusted_proxies.clone())),
        }
    }

    /// Identifies the caller and counts the request against its rate limit.
    pub(super) async fn identify(&self, headers: &HeaderMap, peer: Option<Peer>) -> Result<Caller, Problem> {
        let who = self.authenticate(headers, peer).await?;
        Ok(Caller { who, person: self.person(headers, peer)? })
    }

    /// Returns the person whom a trusted proxy names. A header from any other address is ignored.
    fn person(&self, headers: &HeaderMap, peer: Option<Peer>) -> Result<Option<Arc<str>>, Problem> {
        let Some((header, proxies)) = &self.user_header else { return Ok(None) };
        let address = peer.map(|Peer(address)| address.to_canonical());
        if !address.is_some_and(|address| proxies.iter().any(|proxy| proxy.contains(&address))) {
            return Ok(None);
        }
        let mut given = headers.get_all(header).iter();
        let Some(name) = given.next() else { return Ok(None) };
        let name = std::str::from_utf8(name.as_bytes()).map(str::trim).ok();
        let is_name =
            |name: &&str| (1..=MAX_PERSON_BYTES).contains(&name.len()) && !name.contains(char::is_control);
        // Several names are ambiguous: the caller may have sent one itself.
        match name.filter(is_name).filter(|_| given.next().is_none()) {
            Some(name) => Ok(Some(name.into())),
            None => {
                let message = format!("expected one name of 1 to {MAX_PERSON_BYTES} bytes of UTF-8");
                Err(Problem::of_field(StatusCode::BAD_REQUEST, header.as_str(), message))
            }
        }
    }

    async fn authenticate(&self, headers: &HeaderMap, peer: Option<Peer>) -> Result<Who, Problem> {
        let address = peer.map(|Peer(address)| address);
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let Some(header) = given.next() else {
            if let Some(key) = headers.get(API_KEY_HEADER) {
                return self.check_token(key.to_str().unwrap_or_default().trim(), peer).await;
            }
            self.addresses.check(address).map_err(too_fast)?;
            return Ok(Who::Anonymous(Arc::clone(&self.anonymous), address));
        };
        // Several `Authorization` headers are ambiguous and therefore refused.
        let token = header.to_str().ok().filter(|_| given.next().is_none()).and_then(bearer);
        self.check_token(token.unwrap_or_default(), peer).await
    }

    /// The caller with this token; `None`: with the bootstrap token. Its ticket must be verified afterwards.
    pub(super) fn caller_of_ticket(&self, token: Option<TokenId>) -> Option<Caller> {
        let Some(id) = token else {
            return self.bootstrap.clone().map(|secret| Who::Bootstrap(secret).into());
        };
        let token_cache = self.token_cache.as_ref()?;
        let entry = token_cache.find_by_id(id)?;
        Some(Who::Token(entry, Arc::clone(token_cache)).into())
    }

    /// Whether a text has the form of a token of this service, or is the bootstrap token.
    pub(super) fn is_own(&self, token: &str) -> bool {
        let is_bootstrap = self.bootstrap.as_ref().is_some_and(|known| same(token, known.expose()));
        is_bootstrap || Token::parse(token).is_some()
    }

    /// Identifies the caller by its token, and counts the request against its rate limit.
    pub(super) async fn identify_token(&self, token: &str, peer: Option<Peer>) -> Result<Caller, Problem> {
        Ok(self.check_token(token, peer).await?.into())
    }

    async fn check_token(&self, token: &str, peer: Option<Peer>) -> Result<Who, Problem> {
        let address = peer.map(|Peer(address)| address);
        if let Some(secret) = self.bootstrap.as_ref().filter(|known| same(token, known.expose())) {
            return Ok(Who::Bootstrap(secret.clone()));
        }
        let (Some(token), Some(token_cache)) = (Token::parse(token), &self.token_cache) else {
            return Err(self.unknown(peer));
        };
        let found = match token_cache.find_known(&token) {
            Some(found @ (TokenLookup::Valid(_) | TokenLookup::Unavailable)) => found,
            Some(TokenLookup::Unknown) => TokenLookup::Unknown,
            None => {
                // The token may be new. Reading the table is limited, because callers with new tokens wait for it.
                self.guesses.check(address).map_err(too_many_guesses)?;
                token_cache.find_anew(&token).await
            }
        };
        match found {
            TokenLookup::Valid(entry) => {
                entry.call().map_err(too_fast)?;
                Ok(Who::Token(entry, Arc::clone(token_cache)))
            }
            TokenLookup::Unknown => Err(self.unknown(peer)),
            TokenLookup::Unavailable => {
                let detail =
                    "the token cannot be checked, because the table of tokens cannot be read; retry later";
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
                Err(problem.retry_after(TOKENS_RETRY_SECONDS))
            }
        }
    }
}

impl Authenticator {
    /// Counts a wrong secret against its address, like a request without a token.
    pub(super) fn guessed(&self, peer: Option<Peer>) -> Result<(), Problem> {
        let address = peer.map(|Peer(address)| address);
        let counted = self.addresses.check(address).and_then(|()| self.guesses.check(address));
        counted.map_err(too_many_guesses)
    }

    /// The problem for an unknown token.
    fn unknown(&self, peer: Option<Peer>) -> Problem {
        self.guessed(peer).err().unwrap_or_else(unknown)
    }

    /// Counts answers against the address of a caller without a token. Clients on the same machine are not limited.
    pub(super) fn answers(&self, caller: &Caller, count: usize) -> Result<(), Problem> {
        let Who::Anonymous(_, address) = &caller.who else { return Ok(()) };
        let is_near = address.is_some_and(|address| address.to_canonical().is_loopback());
        let Some(count) = NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX)).filter(|_| !is_near)
        else {
            return Ok(());
        };
        self.answers.check_many(*address, count).map_err(|too_much| match too_much {
            TooMuch::Now(too_fast) => {
                let detail = "too many evaluation results per second without a token; use a token, or retry later";
                Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(too_fast.seconds())
            }
            TooMuch::Ever(most) => {
                let detail = format!(
                    "the request asks for {count} evaluation results; without a token at most {most} per second are \
                     allowed"
                );
                Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
            }
        })
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Peer>().copied();
        api.authenticator.identify(&parts.headers, peer).await
    }
}

impl From<Outside> for Problem {
    fn from(outside: Outside) -> Self {
        Self::new(StatusCode::FORBIDDEN, outside)
    }
}

/// Extracts the token from `Bearer …`.
pub(super) fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares in constant time.
pub(super) fn same(given: &str, secret: &str) -> bool {
    given.as_bytes().ct_eq(secret.as_bytes()).into()
}

fn unknown() -> Problem {
    let detail = "the token is unknown, revoked or expired";
    unauthorized(detail, ", error=\"invalid_token\"")
}

fn unauthorized(detail: &str, error: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail).header(WWW_AUTHENTICATE, challenge(error))
}

/// Builds the header `WWW-Authenticate` (RFC 6750, section 3).
fn challenge(error: &str) -> HeaderValue {
    let challenge = HeaderValue::try_from(format!("Bearer realm=\"flagstream\"{error}"));
    challenge.unwrap_or(HeaderValue::from_static("Bearer"))
}

fn too_many_guesses(too_fast: TooFast) -> Problem {
    let problem = Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too many requests per second with unknown tokens from this address; retry later",
    );
    problem.retry_after(too_fast.seconds())
}

fn too_fast(too_fast: TooFast) -> Problem {
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many requests per second; retry later");
    problem.retry_after(too_fast.seconds())
}

#[cfg(test)]
mod tests;
