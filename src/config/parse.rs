//! Parsers of setting values. An error states the expected format; the caller adds the setting's name.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use axum::http::HeaderName;
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

pub(super) use crate::embed::settings::{environment, token};
pub(super) use crate::kafka::parse::{Parsed, flag, group, instance, is_plain, servers, text, topic};

/// Parses one of the given words.
pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Parsed<T> {
    let found = words.iter().find(|(word, _)| *word == text.trim());
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        format!("expected {}", known.join(" or "))
    })
}

pub(super) fn number<T: FromStr + PartialOrd + Display>(text: &str, range: RangeInclusive<T>) -> Parsed<T> {
    let number = text.trim().parse().ok().filter(|n| range.contains(n));
    number.ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
}

/// A duration: `15` and `15s` are seconds; `500ms`, `2m`, `1h` and `7d` are also accepted.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Parsed<Duration> {
    let (digits, unit) = split_unit(text);
    let millis_per_unit = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let millis = digits.parse::<u64>().ok().zip(millis_per_unit).and_then(|(n, unit)| n.checked_mul(unit));
    let duration = millis.map(Duration::from_millis).filter(|duration| range.contains(duration));
    duration.ok_or_else(|| {
        let (from, to) = (duration_text(*range.start()), duration_text(*range.end()));
        format!("expected a duration such as `15`, `15s` or `500ms`, from {from} to {to}")
    })
}

/// Formats a duration so that [`duration`] can parse it.
pub(super) fn duration_text(duration: Duration) -> String {
    match duration.as_millis() {
        millis if millis % 86_400_000 == 0 => format!("{}d", millis / 86_400_000),
        millis if millis % 1_000 == 0 => format!("{}s", millis / 1_000),
        millis => format!("{millis}ms"),
    }
}

/// A number of bytes: `4194304`, `4096KiB` or `4MiB`.
pub(super) fn bytes(text: &str, range: RangeInclusive<usize>) -> Parsed<usize> {
    let (digits, unit) = split_unit(text);
    let factor = match unit {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = digits.parse::<usize>().ok().zip(factor).and_then(|(n, factor)| n.checked_mul(factor));
    bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
        let (from, to) = (range.start(), range.end());
        format!("expected bytes such as `65536`, `64KiB` or `4MiB`, from {from} to {to}")
    })
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.trim_start())
}

pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    text.trim().parse().map_err(|_| "expected an IP address with a port, such as `0.0.0.0:8082`".into())
}

/// A URL with one of `schemes` (`http`, …).
pub(super) fn url(text: &str, schemes: &[&str]) -> Parsed<String> {
    let text = text.trim();
    let scheme = text.split_once(':').map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
    let known = matches!(&scheme, Some((s, rest)) if schemes.contains(&s.as_str()) && !rest.trim_matches('/').is_empty());
    if known && !text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Ok(text.to_owned())
    } else {
        let schemes: Vec<_> = schemes.iter().map(|s| format!("`{s}:…`")).collect();
        Err(format!("expected a URL, {}", schemes.join(" or ")))
    }
}

/// The origin of a web page, or `*`.
pub(super) fn origin(text: &str) -> Parsed<String> {
    let text = text.trim();
    let parsed = reqwest::Url::parse(text).ok().map(|url| url.origin().ascii_serialization());
    if text == "*" || parsed.as_deref() == Some(text) {
        return Ok(text.to_owned());
    }
    Err("expected an origin such as `https://app.example.com`, or `*`".into())
}

/// A host name as in the `Host` header, without a port, converted to lower case; or `*`.
pub(super) fn host(text: &str) -> Parsed<String> {
    let text = text.trim().to_ascii_lowercase();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if text == "*" || (!text.is_empty() && text.chars().all(is_plain)) {
        return Ok(text);
    }
    Err("expected a host's name without scheme and port, such as `flags.example.com`, or `*`".into())
}

/// Unleash's base URL, without a trailing `/api`. It is displayed where flags are managed, so credentials are rejected.
pub(super) fn unleash_url(text: &str) -> Parsed<String> {
    let expected = || "expected Unleash's URL, such as `http://localhost:4242`".to_owned();
    let url = reqwest::Url::parse(text.trim()).map_err(|_| expected())?;
    if !url.username().is_empty() || url.password().is_some() {
        let problem = "expected a URL without user and password: set Unleash's token in UNLEASH_API_TOKEN";
        return Err(problem.into());
    }
    let plain = url.query().is_none() && url.fragment().is_none() && url.has_host();
    if !plain || !matches!(url.scheme(), "http" | "https") {
        return Err(expected());
    }
    let base = url.as_str().trim_end_matches('/');
    Ok(base.strip_suffix("/api").unwrap_or(base).trim_end_matches('/').to_owned())
}

/// The name of a request header, in lower case.
pub(super) fn header(text: &str) -> Parsed<HeaderName> {
    let name = HeaderName::from_bytes(text.trim().to_ascii_lowercase().as_bytes());
    name.map_err(|_| "expected the name of a header, such as `X-Forwarded-User`".into())
}

/// A network in CIDR notation, or a single address.
pub(super) fn network(text: &str) -> Parsed<IpNet> {
    let text = text.trim();
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.ok_or_else(|| "expected a network such as `10.0.0.0/8`, or an address".into())
}

/// A log filter. A single word that is not a level is rejected: as a target name it would disable all other logging.
pub(super) fn log_filter(text: &str) -> Parsed<String> {
    let bare = text.split(',').map(str::trim).filter(|part| !part.contains(['=', '[', ']', '{', '}']));
    for part in bare {
        part.parse::<LevelFilter>()
            .map_err(|_| "expected `error`, `warn`, `info`, `debug`, `trace`, `off`, or `target=level`")?;
    }
    EnvFilter::builder().parse(text).map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
}
