//! Request for a new token, validated by the same rules on the command line and over HTTP.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::config::{Scope, TokenKind, lifetime};

use super::{Environments, Grant, Restrictions, TokenId};

/// Longest name of a token, in characters.
const NAME_CHARS_MAX: usize = 100;
/// Maximum number of environments of a token.
const ENVIRONMENTS_MAX: usize = 100;
/// Longest lifetime of a token: ten years.
pub const EXPIRES_IN_MAX: Duration = Duration::from_secs(3_650 * 86_400);
/// Shortest lifetime of a token.
pub const EXPIRES_IN_MIN: Duration = Duration::from_secs(1);

/// Properties of a token to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    pub name: String,
    pub grant: Grant,
    pub expires_at: Option<DateTime<Utc>>,
    /// Token with which this one is created. Revoking that one also revokes this one.
    pub made_by: Option<TokenId>,
}

/// An invalid field of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTokenError {
    pub field: &'static str,
    pub message: String,
}

impl NewToken {
    /// Validates the fields. The error lists everything that is wrong.
    pub fn check(
        name: &str,
        scopes: &[&str],
        environments: &[&str],
        expires_in: Option<&str>,
    ) -> Result<Self, Vec<NewTokenError>> {
        let mut problems = Vec::new();
        let mut note = |field, message: String| problems.push(NewTokenError { field, message });
        let name = name.trim();
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.contains(char::is_control) {
            note("name", format!("expected 1 to {NAME_CHARS_MAX} printable characters"));
        }
        let scopes = parse_scopes(scopes).map_err(|message| note("scopes", message)).unwrap_or_default();
        let environments = if environments.len() > ENVIRONMENTS_MAX {
            Err(format!("expected at most {ENVIRONMENTS_MAX} environments, got {}", environments.len()))
        } else {
            Environments::of_names(environments.iter().copied())
        };
        let environments = environments.map_err(|message| note("environments", message));
        let expires_in = expires_in.map(|text| lifetime(text, EXPIRES_IN_MIN..=EXPIRES_IN_MAX));
        let expires_in = expires_in.transpose().map_err(|message| note("expires_in", message));
        match (environments, expires_in) {
            (Ok(environments), Ok(expires_in)) if problems.is_empty() => {
                let lifetime = expires_in.and_then(|lifetime| TimeDelta::from_std(lifetime).ok());
                let expires_at = lifetime.and_then(|lifetime| now().checked_add_signed(lifetime));
                let grant = Grant::new(scopes, environments);
                Ok(Self { name: name.to_owned(), grant, expires_at, made_by: None })
            }
            _ => Err(problems),
        }
    }

    /// Adds restrictions to the order, or returns all problems of both.
    pub fn restricted(
        new_token: Result<Self, Vec<NewTokenError>>,
        restrictions: Result<Restrictions, Vec<NewTokenError>>,
    ) -> Result<Self, Vec<NewTokenError>> {
        match (new_token, restrictions) {
            (Ok(mut new_token), Ok(restrictions)) => {
                new_token.grant.restrictions = restrictions;
                Ok(new_token)
            }
            (new_token, restrictions) => {
                let problems = new_token.err().into_iter().chain(restrictions.err());
                Err(problems.flatten().collect())
            }
        }
    }

    /// Sets the kind of SDKs that the token is for, or adds the problem to those of the other fields.
    pub fn for_kind(
        new_token: Result<Self, Vec<NewTokenError>>,
        kind: Option<&str>,
    ) -> Result<Self, Vec<NewTokenError>> {
        let known = kind.map(|kind| TokenKind::of_name(kind).ok_or(kind)).transpose();
        match (new_token, known) {
            (Ok(mut new_token), Ok(kind)) => {
                new_token.grant.kind = kind;
                Ok(new_token)
            }
            (new_token, known) => {
                let unknown = |kind| NewTokenError {
                    field: "kind",
                    message: format!("expected `backend` or `frontend`, not `{kind}`"),
                };
                Err(new_token.err().into_iter().flatten().chain(known.err().map(unknown)).collect())
            }
        }
    }

    /// Sets the creating token, and limits the expiry to that of the creating token.
    #[must_use]
    pub fn by(mut self, maker: TokenId, maker_expires_at: Option<DateTime<Utc>>) -> Self {
        self.made_by = Some(maker);
        self.expires_at = match (self.expires_at, maker_expires_at) {
            (Some(wanted), Some(most)) => Some(wanted.min(most)),
            (wanted, most) => wanted.or(most),
        };
        self
    }
}

/// Current time with microsecond precision, which both databases store.
pub(super) fn now() -> DateTime<Utc> {
    let now = Utc::now();
    DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
}

fn parse_scopes(names: &[&str]) -> Result<Vec<Scope>, String> {
    let known: Vec<_> = Scope::NAMES.iter().map(|(name, _)| *name).collect();
    let expected = || format!("expected some of {}", known.join(", "));
    let mut scopes = Vec::new();
    for name in names {
        let scope = Scope::of_name(name.trim()).ok_or_else(|| format!("{}, not `{name}`", expected()))?;
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    if scopes.is_empty() { Err(expected()) } else { Ok(scopes) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_good_order_is_taken() {
        let new_token =
            NewToken::check(" shop ", &["read", "evaluate", "read"], &["*"], Some("90d")).unwrap();
        assert_eq!(new_token.name, "shop");
        assert_eq!(new_token.grant, Grant::new(vec![Scope::Read, Scope::Evaluate], Environments::All));
        let days = (new_token.expires_at.unwrap() - Utc::now()).num_hours();
        assert!((24 * 90 - 1..=24 * 90).contains(&days));
        assert_eq!(NewToken::check("x", &["admin"], &["a"], None).unwrap().expires_at, None);
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let long = "n".repeat(101);
        for name in ["", " ", "a\nb", &long] {
            let problems = NewToken::check(name, &["fly"], &["*", "a"], Some("soon")).unwrap_err();
            let fields: Vec<_> = problems.iter().map(|problem| problem.field).collect();
            assert_eq!(fields, ["name", "scopes", "environments", "expires_in"]);
            assert!(problems.iter().all(|problem| problem.message.contains("expected")), "{problems:?}");
        }
        for lifetime in ["0", "0d", "3651d", "-1d", "9999999999999999999d"] {
            assert!(NewToken::check("n", &["read"], &["a"], Some(lifetime)).is_err(), "{lifetime}");
        }
        assert!(NewToken::check("n", &[], &["a"], None).is_err());
        let wrong = Restrictions::of_names(&[], &[""], &[]);
        let problems = NewToken::restricted(NewToken::check("n", &[], &["a"], None), wrong).unwrap_err();
        assert_eq!(problems.iter().map(|it| it.field).collect::<Vec<_>>(), ["scopes", "flag_prefixes"]);
        let wrong = NewToken::for_kind(NewToken::check("n", &[], &["a"], None), Some("admin")).unwrap_err();
        assert_eq!(wrong.iter().map(|it| it.field).collect::<Vec<_>>(), ["scopes", "kind"]);
        let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(NewToken::check("n", &["read"], &many, None).is_err());
    }
}
