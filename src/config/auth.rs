//! Access of callers: scopes, tokens and rate limits.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::http::HeaderName;
use ipnet::IpNet;

use super::Secret;

#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// Scopes of callers without a token.
    pub anonymous_scopes: Vec<Scope>,
    /// Whether `anonymous_scopes` is the default rather than set.
    pub anonymous_by_default: bool,
    pub bootstrap_token: Option<Secret>,
    /// How long cached tokens stay valid while the database is unreachable.
    pub tokens_max_age: Duration,
    /// Rate limit per token and instance, in calls per second; `None` means unlimited.
    pub token_calls_per_second: Option<NonZeroU32>,
    /// Rate limit per address without a token, in calls per second and instance; `None` means unlimited.
    pub anonymous_calls_per_second: Option<NonZeroU32>,
    /// Rate limit per address without a token, in answers (flags times contexts) per second and instance; `None` means
    /// unlimited.
    pub anonymous_answers_per_second: Option<NonZeroU32>,
    /// Header in which a trusted proxy names the person who calls.
    pub user_header: Option<HeaderName>,
    /// Networks of the proxies whose `user_header` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Evaluate,
    Read,
    /// Reads for whom flags were evaluated: user ids and contexts, which `Read` does not include.
    Audit,
    /// Reports what users did: conversions of experiments. It changes no flag and no experiment.
    Track,
    Write,
    Delete,
    Admin,
}

impl Scope {
    pub const NAMES: &[(&str, Self)] = &[
        ("evaluate", Self::Evaluate),
        ("read", Self::Read),
        ("audit", Self::Audit),
        ("track", Self::Track),
        ("write", Self::Write),
        ("delete", Self::Delete),
        ("admin", Self::Admin),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| *name)
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, scope)| *scope)
    }
}
