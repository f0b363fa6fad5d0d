//! The section of the API for Unleash's SDKs.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;

use super::values::Values;
use super::{Secret, parse};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Settings of the API for Unleash's SDKs.
#[derive(Debug, Clone)]
pub struct UnleashApiConfig {
    /// Whether the routes are served.
    pub enabled: bool,
    pub events: RecordedEvents,
    /// Time after which an unchanged impression is recorded again.
    pub repeat: Duration,
    /// Whether the routes that list flags which are off are served.
    pub all_endpoints: bool,
    /// Proxies whose `Forwarded` and `X-Forwarded-For` headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Time after which Unleash is asked again whether a token is valid.
    pub token_revalidation: Duration,
    pub pretrusted_tokens: Vec<PretrustedToken>,
    pub streaming: StreamingMode,
    /// Header that carries the token, in lower case.
    pub token_header: String,
    /// Prefix of all paths: empty, or with a leading and without a trailing slash.
    pub base_path: String,
}

/// Evaluations for frontend SDKs that are recorded as events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordedEvents {
    /// Evaluations of flags with impression data, without repetitions.
    Impressions,
    All,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamingMode {
    On,
    /// A stream asks its client to poll.
    Off,
    /// Answers to polling clients ask them to open a stream.
    Prefer,
}

/// SDKs that a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenKind {
    /// Server SDKs, which receive definitions. Unleash's older name is `client`.
    Backend,
    /// Frontend SDKs, which receive results.
    Frontend,
}

/// A token that is accepted without asking Unleash.
#[derive(Debug, Clone)]
pub struct PretrustedToken {
    pub kind: TokenKind,
    pub environment: String,
    /// `None`: all projects.
    pub projects: Option<BTreeSet<String>>,
    pub text: Secret,
}

impl TokenKind {
    pub const NAMES: [(&'static str, Self); 2] = [("backend", Self::Backend), ("frontend", Self::Frontend)];

    pub fn name(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Frontend => "frontend",
        }
    }

    /// Parses a type of token, including Unleash's older name `client`.
    pub fn of_name(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "client" | "backend" => Some(Self::Backend),
            "frontend" => Some(Self::Frontend),
            _ => None,
        }
    }
}

impl PretrustedToken {
    /// Parses `[backend=|frontend=]TOKEN`. A token without a type is for frontend SDKs.
    fn parse(text: &str) -> parse::Parsed<Self> {
        let expected = || {
            "expected tokens such as `frontend=*:production.SECRET`, `backend=shop:production.SECRET` or \
             `SECRET@production`"
                .to_owned()
        };
        let (kind, token) = match text.split_once('=') {
            // A secret may contain `=` too.
            Some((kind, token)) if kind.chars().all(|c| c.is_ascii_alphabetic()) => {
                (TokenKind::of_name(kind).ok_or_else(expected)?, token)
            }
            _ => (TokenKind::Frontend, text),
        };
        let token = parse::token(token)?;
        let (environment, projects) = if let Some((project, rest)) = token.split_once(':') {
            let (environment, secret) = rest.split_once('.').ok_or_else(expected)?;
            if secret.is_empty() || project.is_empty() {
                return Err(expected());
            }
            let projects = match project {
                "*" => None,
                "[]" => {
                    let problem = "a token for several projects (`[]:…`) cannot be pre-trusted, because only Unleash \
                                   knows its projects";
                    return Err(problem.into());
                }
                one => Some(BTreeSet::from([one.to_owned()])),
            };
            (environment.to_owned(), projects)
        } else {
            let (secret, environment) = token.rsplit_once('@').ok_or_else(expected)?;
            if secret.is_empty() {
                return Err(expected());
            }
            (environment.to_owned(), None)
        };
        let environment = parse::environment(&environment)?;
        Ok(Self { kind, environment, projects, text: Secret::new(token) })
    }
}

pub(super) fn config(values: &mut Values) -> Option<UnleashApiConfig> {
    let enabled = values.required("unleash_api.enabled", parse::flag);
    let words = [
        ("impressions", RecordedEvents::Impressions),
        ("all", RecordedEvents::All),
        ("none", RecordedEvents::None),
    ];
    let events = values.required("unleash_api.events", |text| parse::word(text, &words));
    let repeat = values.required("unleash_api.repeat", |text| parse::duration(text, SECOND..=7 * DAY));
    let all_endpoints = values.required("unleash_api.all_endpoints", parse::flag);
    let trusted_proxies = values.list("unleash_api.trusted_proxies", network);
    let revalidation =
        values.required("unleash_api.token_revalidation", |text| parse::duration(text, SECOND..=30 * DAY));
    let pretrusted = values.list("unleash_api.pretrusted_tokens", PretrustedToken::parse);
    let words = [("on", StreamingMode::On), ("off", StreamingMode::Off), ("prefer", StreamingMode::Prefer)];
    let streaming = values.required("unleash_api.streaming", |text| parse::word(text, &words));
    let token_header = values.required("unleash_api.token_header", header_name);
    let base_path = values.optional("unleash_api.base_path", base_path);
    Some(UnleashApiConfig {
        enabled: enabled?,
        events: events?,
        repeat: repeat?,
        all_endpoints: all_endpoints?,
        trusted_proxies: trusted_proxies?,
        token_revalidation: revalidation?,
        pretrusted_tokens: pretrusted?,
        streaming: streaming?,
        token_header: token_header?,
        base_path: base_path?.unwrap_or_default(),
    })
}

/// A network in CIDR notation, or a single address.
fn network(text: &str) -> parse::Parsed<IpNet> {
    let text = text.trim();
    let address = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    let network = text.parse().ok().or_else(address);
    network.ok_or_else(|| "expected a network such as `10.0.0.0/8`, or an address".to_owned())
}

fn header_name(text: &str) -> parse::Parsed<String> {
    let name = text.trim().to_ascii_lowercase();
    match axum::http::HeaderName::try_from(&name) {
        Ok(_) => Ok(name),
        Err(_) => Err("expected the name of an HTTP header".into()),
    }
}

fn base_path(text: &str) -> parse::Parsed<String> {
    let path = text.trim().trim_end_matches('/');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
    if path.is_empty() {
        return Ok(String::new());
    }
    if !path.starts_with('/') || path.contains("//") || !path.chars().all(is_plain) {
        return Err("expected a path such as `/unleash`".into());
    }
    Ok(path.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pretrusted_tokens_have_a_kind_an_environment_and_projects() {
        let parse = |text: &str| PretrustedToken::parse(text).unwrap();
        let all = parse("backend=*:production.abc");
        assert_eq!(
            (all.kind, all.environment.as_str(), all.projects),
            (TokenKind::Backend, "production", None)
        );
        let one = parse("client=shop:dev.v2_selector_secret");
        assert_eq!((one.kind, one.environment.as_str()), (TokenKind::Backend, "dev"));
        assert_eq!(one.projects, Some(BTreeSet::from(["shop".to_owned()])));
        assert_eq!(parse("*:dev.YWJj=").environment, "dev");
        let proxy = parse("my-secret@dev");
        assert_eq!(
            (proxy.kind, proxy.environment.as_str(), proxy.projects),
            (TokenKind::Frontend, "dev", None)
        );
        for wrong in ["", "abc", "admin=*:dev.x", "[]:dev.x", "*:dev", "*:dev.", ":dev.x", "@dev", "a b@dev"]
        {
            assert!(PretrustedToken::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_headers_and_paths_are_checked() {
        assert!(network("10.0.0.0/8").unwrap().contains(&"10.1.2.3".parse::<std::net::IpAddr>().unwrap()));
        assert!(network("::1").is_ok() && network("10.0.0.0/40").is_err());
        assert_eq!(header_name(" X-Token ").unwrap(), "x-token");
        assert!(header_name("a b").is_err());
        assert_eq!(
            (base_path("/").unwrap(), base_path("/a/b/").unwrap()),
            (String::new(), "/a/b".to_owned())
        );
        assert!(base_path("a").is_err() && base_path("//a").is_err() && base_path("/{a}").is_err());
    }
}
