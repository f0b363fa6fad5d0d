//! Who calls, and what they may do: the one place where that is decided.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use subtle::ConstantTimeEq;

use crate::config::{AuthConfig, Scope};

use super::Problem;
use super::api::Api;

/// The caller of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    scopes: Vec<Scope>,
    /// Without a token: more could be allowed with one.
    anonymous: bool,
}

impl Caller {
    /// Fails unless the caller may do this: 401 without a token, 403 with one.
    pub fn may(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin) {
            return Ok(());
        }
        let name = Scope::NAMES.iter().find(|(_, known)| *known == scope).map_or("", |(name, _)| *name);
        if self.anonymous {
            return Err(unauthorized(&format!("this needs a token with the scope {name}"), ""));
        }
        Err(Problem::new(StatusCode::FORBIDDEN, format!("the token does not have the scope {name}")))
    }

    /// Who changes are put down to.
    pub fn name(&self) -> &str {
        if self.anonymous { "anonymous" } else { "bootstrap" }
    }

    fn identify(auth: &AuthConfig, headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(header) = headers.get(AUTHORIZATION) else {
            return Ok(Self { scopes: auth.anonymous_scopes.clone(), anonymous: true });
        };
        let token = header.to_str().ok().and_then(bearer).unwrap_or_default();
        match &auth.bootstrap_token {
            Some(known) if same(token, known.expose()) => {
                Ok(Self { scopes: vec![Scope::Admin], anonymous: false })
            }
            _ => Err(unauthorized("the token is not known", ", error=\"invalid_token\"")),
        }
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        Self::identify(&api.config.auth, &parts.headers)
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

fn unauthorized(detail: &str, error: &str) -> Problem {
    let challenge = HeaderValue::try_from(format!("Bearer realm=\"flagstream\"{error}"));
    let challenge = challenge.unwrap_or(HeaderValue::from_static("Bearer"));
    Problem::new(StatusCode::UNAUTHORIZED, detail).header(WWW_AUTHENTICATE, challenge)
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn identify(header: Option<&str>) -> Result<Caller, Problem> {
        let auth = AuthConfig {
            anonymous_scopes: vec![Scope::Evaluate],
            bootstrap_token: Some(Secret::new("a-token-of-the-admin")),
        };
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.try_into().unwrap());
        }
        Caller::identify(&auth, &headers)
    }

    #[test]
    fn the_anonymous_may_what_the_setting_says() {
        let caller = identify(None).unwrap();
        assert_eq!(caller.may(Scope::Evaluate), Ok(()));
        let problem = caller.may(Scope::Write).unwrap_err();
        assert_eq!(problem.status, StatusCode::UNAUTHORIZED);
        assert!(problem.headers.iter().any(|(name, _)| name == WWW_AUTHENTICATE));
    }

    #[test]
    fn the_bootstrap_token_may_everything_and_any_other_nothing() {
        assert_eq!(identify(Some("Bearer a-token-of-the-admin")).unwrap().may(Scope::Write), Ok(()));
        assert_eq!(identify(Some("bearer  a-token-of-the-admin ")).unwrap().may(Scope::Delete), Ok(()));
        for header in ["Bearer a-token-of-the-admi", "Bearer ", "a-token-of-the-admin", "Basic YTpi"] {
            assert_eq!(identify(Some(header)).unwrap_err().status, StatusCode::UNAUTHORIZED, "{header}");
        }
    }
}
