//! Who calls, and what they may do where: the one place where that is decided.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use subtle::ConstantTimeEq;

use crate::access::{Addresses, Entry, Environments, Found, Grant, Register, Token, TooFast};
use crate::config::{AuthConfig, Scope, Secret};

use super::Problem;
use super::api::Api;

/// What an unknown token has to wait for: the next look at the table.
const TOKENS_RETRY_SECONDS: u32 = 2;

/// The caller of a route. A route asks [`Caller::may_in`] with the environment that it is about, or [`Caller::may`] and
/// then [`Caller::sees`] for each thing that it lists.
#[derive(Debug, Clone)]
pub struct Caller(Who);

#[derive(Debug, Clone)]
enum Who {
    /// Without a token: more could be allowed with one.
    Anonymous(Arc<Grant>),
    Bootstrap,
    Token(Arc<Entry>, Arc<Register>),
}

/// Where the connection of a call comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// What callers are compared with.
#[derive(Debug)]
pub struct Gate {
    anonymous: Arc<Grant>,
    bootstrap: Option<Secret>,
    addresses: Addresses,
    /// Absent without a database.
    pub(super) register: Option<Arc<Register>>,
}

impl Caller {
    /// Fails unless the caller may do this somewhere: 401 without a token, 403 with one.
    pub fn may(&self, scope: Scope) -> Result<(), Problem> {
        if self.grant().is_none_or(|grant| grant.has(scope)) {
            return Ok(());
        }
        let name = scope.name();
        if matches!(self.0, Who::Anonymous(_)) {
            return Err(unauthorized(&format!("this needs a token with the scope {name}"), ""));
        }
        let challenge = challenge(&format!(", error=\"insufficient_scope\", scope=\"{name}\""));
        let problem =
            Problem::new(StatusCode::FORBIDDEN, format!("the token does not have the scope {name}"));
        Err(problem.header(WWW_AUTHENTICATE, challenge))
    }

    /// The same in one environment.
    pub fn may_in(&self, scope: Scope, environment: &str) -> Result<(), Problem> {
        self.may(scope)?;
        if self.sees(environment) {
            return Ok(());
        }
        let detail = format!("the token is not for the environment {environment}");
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }

    /// The same in all of these environments.
    pub fn may_in_all(&self, scope: Scope, environments: &Environments) -> Result<(), Problem> {
        self.may(scope)?;
        match self.grant().and_then(|grant| environments.beyond(&grant.environments)) {
            None => Ok(()),
            Some("*") => {
                let detail = "the token is not for all environments";
                Err(Problem::new(StatusCode::FORBIDDEN, detail))
            }
            Some(environment) => self.may_in(scope, environment),
        }
    }

    /// The environments that are shown to the caller; `None`: all.
    pub fn environments(&self) -> Option<Vec<&str>> {
        match &self.grant()?.environments {
            Environments::All => None,
            listed @ Environments::Listed(_) => Some(listed.names()),
        }
    }

    /// Whether what is in this environment is shown to the caller.
    pub fn sees(&self, environment: &str) -> bool {
        self.grant().is_none_or(|grant| grant.environments.contains(environment))
    }

    /// Who did it, for those who ask later.
    pub fn name(&self) -> String {
        match &self.0 {
            Who::Anonymous(_) => "anonymous".to_owned(),
            Who::Bootstrap => "bootstrap-token".to_owned(),
            Who::Token(entry, _) => format!("token:{}:{}", entry.valid.id, entry.valid.name),
        }
    }

    /// Ends when the caller's token counts no more; for answers that go on for long.
    pub async fn until_void(self) {
        match self.0 {
            Who::Anonymous(_) | Who::Bootstrap => std::future::pending().await,
            Who::Token(entry, register) => register.until_void(&entry).await,
        }
    }

    /// `None`: everything, everywhere.
    fn grant(&self) -> Option<&Grant> {
        match &self.0 {
            Who::Anonymous(grant) => Some(grant),
            Who::Bootstrap => None,
            Who::Token(entry, _) => Some(&entry.valid.grant),
        }
    }
}

impl Gate {
    pub fn new(config: &AuthConfig, register: Option<Arc<Register>>) -> Self {
        Self {
            anonymous: Arc::new(Grant::new(config.anonymous_scopes.clone(), Environments::All)),
            bootstrap: config.bootstrap_token.clone(),
            addresses: Addresses::new(config.anonymous_calls_per_second),
            register,
        }
    }

    /// Who a call comes from; it counts as one of theirs.
    async fn identify(&self, headers: &HeaderMap, peer: Option<Peer>) -> Result<Caller, Problem> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let Some(header) = given.next() else {
            self.addresses.check(peer.map(|Peer(address)| address)).map_err(too_fast)?;
            return Ok(Caller(Who::Anonymous(Arc::clone(&self.anonymous))));
        };
        // Which of several would count is not ours to guess.
        let token = header.to_str().ok().filter(|_| given.next().is_none()).and_then(bearer);
        let token = token.unwrap_or_default();
        if self.bootstrap.as_ref().is_some_and(|known| same(token, known.expose())) {
            return Ok(Caller(Who::Bootstrap));
        }
        let (Some(token), Some(register)) = (Token::parse(token), &self.register) else {
            return Err(unknown());
        };
        match register.find(&token).await {
            Found::Valid(entry) => {
                entry.call().map_err(too_fast)?;
                Ok(Caller(Who::Token(entry, Arc::clone(register))))
            }
            Found::Unknown => Err(unknown()),
            Found::Unavailable => {
                let detail = "whether the token is valid cannot be told at the moment";
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
                Err(problem.retry_after(TOKENS_RETRY_SECONDS))
            }
        }
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Peer>().copied();
        api.gate.identify(&parts.headers, peer).await
    }
}

/// The token of `Bearer …`.
pub(super) fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Takes the same time wherever they differ.
pub(super) fn same(given: &str, secret: &str) -> bool {
    given.as_bytes().ct_eq(secret.as_bytes()).into()
}

fn unknown() -> Problem {
    let detail = "the token is not known, or was revoked, or has expired";
    unauthorized(detail, ", error=\"invalid_token\"")
}

fn unauthorized(detail: &str, error: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail).header(WWW_AUTHENTICATE, challenge(error))
}

/// How to ask again (RFC 6750, 3).
fn challenge(error: &str) -> HeaderValue {
    let challenge = HeaderValue::try_from(format!("Bearer realm=\"flagstream\"{error}"));
    challenge.unwrap_or(HeaderValue::from_static("Bearer"))
}

fn too_fast(too_fast: TooFast) -> Problem {
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many calls in a second");
    problem.retry_after(too_fast.seconds())
}

#[cfg(test)]
mod tests;
