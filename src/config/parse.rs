//! Parsers of setting values. An error states the expected format; the caller adds the setting's name.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use axum::http::HeaderName;
use bytesize::{ByteSize, Unit};
use ipnet::IpNet;
use reqwest::Url;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

pub(super) use crate::embed::settings::{environment, token};
pub(super) use crate::kafka::parse::{Parsed, flag, group, instance, is_plain, servers, text, topic};

/// Maximum length of a duration with units, in bytes.
const MAX_DURATION_BYTES: usize = 64;
/// Maximum length of a number in a duration with units, in bytes.
const MAX_NUMBER_BYTES: usize = 12;

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

/// A duration: `15` and `15s` are seconds; `500ms`, `2m`, `1h 30m`, `1.5h`, `7d` and `2 weeks` are also accepted.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Parsed<Duration> {
    let text = text.trim();
    let seconds = text.parse().ok().map(Duration::from_secs);
    let with_units = || humantime::parse_duration(text).ok();
    let duration = seconds.or_else(|| is_unambiguous(text).then(with_units).flatten());
    duration.filter(|duration| range.contains(duration)).ok_or_else(|| {
        let (from, to) = (duration_text(*range.start()), duration_text(*range.end()));
        format!("expected a duration such as `15`, `15s`, `500ms` or `1h 30m`, from {from} to {to}")
    })
}

/// Whether humantime reads the duration as everyone does. It takes `M` for months, months and years for averages, and
/// skips spaces inside numbers (`1 5s`). Sums near the largest `Duration` make it panic, so numbers are limited too.
fn is_unambiguous(text: &str) -> bool {
    let parts = |of: fn(char) -> bool| text.split(move |c| !of(c)).filter(|part| !part.is_empty());
    let numbers: Vec<_> = parts(|c| c.is_ascii_digit() || c == '.').collect();
    let units: Vec<_> = parts(char::is_alphabetic).collect();
    let is_calendar = |unit: &&str| unit.starts_with(['M', 'y']) || unit.starts_with("mon");
    let is_short = text.len() <= MAX_DURATION_BYTES && numbers.iter().all(|n| n.len() <= MAX_NUMBER_BYTES);
    is_short && numbers.len() == units.len() && !units.iter().any(is_calendar)
}

/// Formats a duration so that [`duration`] can parse it.
pub(super) fn duration_text(duration: Duration) -> String {
    match duration.as_millis() {
        millis if millis % 86_400_000 == 0 => format!("{}d", millis / 86_400_000),
        millis if millis % 1_000 == 0 => format!("{}s", millis / 1_000),
        millis => format!("{millis}ms"),
    }
}

/// A number of bytes: `4194304`, `4096KiB`, `4MiB` or `1.5GiB`. Decimal units are refused, because many programs mean
/// 4 MiB by `4MB` or `4M`.
pub(super) fn bytes(text: &str, range: RangeInclusive<usize>) -> Parsed<usize> {
    let text = text.trim();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim_start();
    let is_binary = matches!(
        unit.parse(),
        Ok(Unit::Byte | Unit::KibiByte | Unit::MebiByte | Unit::GibiByte | Unit::TebiByte)
    );
    let size = text.parse::<ByteSize>().ok().filter(|_| unit.is_empty() || is_binary);
    let bytes = size.and_then(|size| usize::try_from(size.as_u64()).ok());
    bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
        let (from, to) = (range.start(), range.end());
        format!("expected bytes such as `65536`, `64KiB` or `4MiB`, from {from} to {to}")
    })
}

pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    text.trim().parse().map_err(|_| "expected an IP address with a port, such as `0.0.0.0:8082`".into())
}

/// A URL with one of `schemes` (`http`, …).
pub(super) fn url(text: &str, schemes: &[&str]) -> Parsed<String> {
    let text = text.trim();
    let scheme = text.split_once(':').map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
    let known = matches!(&scheme, Some((s, rest)) if schemes.contains(&s.as_str()) && !rest.trim_matches('/').is_empty());
    // The name of a SQLite file need not be valid in a URL.
    let is_file = matches!(&scheme, Some((s, _)) if s == "sqlite");
    if known
        && (is_file || Url::parse(text).is_ok())
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        Ok(text.to_owned())
    } else {
        let schemes: Vec<_> = schemes.iter().map(|s| format!("`{s}:…`")).collect();
        Err(format!("expected a URL, {}", schemes.join(" or ")))
    }
}

/// The origin of a web page, or `*`.
pub(super) fn origin(text: &str) -> Parsed<String> {
    let text = text.trim();
    let parsed = Url::parse(text).ok().map(|url| url.origin().ascii_serialization());
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
    let url = Url::parse(text.trim()).map_err(|_| expected())?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(text: &str) -> Option<u128> {
        duration(text, Duration::ZERO..=Duration::MAX).ok().map(|duration| duration.as_millis())
    }

    fn size(text: &str) -> Option<usize> {
        bytes(text, 0..=usize::MAX - 1).ok()
    }

    #[test]
    fn durations_have_units_and_may_have_several() {
        for (text, expected) in [
            ("15", 15_000),
            (" 15 s ", 15_000),
            ("500ms", 500),
            ("2min", 120_000),
            ("1.5h", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1d12h", 129_600_000),
            ("2 weeks", 1_209_600_000),
        ] {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn durations_that_could_mean_something_else_are_refused() {
        let texts = [
            "5M", "1 month", "1mon", "2y", "1year", "1 5s", "1s 5", "s", "", "1.5", "-1s", "1e3s", "1:30",
            "1,5s", "5S",
        ];
        for text in texts {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn durations_too_large_for_the_type_are_refused() {
        for text in ["18446744073709551616", "18446744073709551615s 1000ms", "99999999999999999999w"] {
            assert_eq!(millis(text), None, "{text}");
        }
        let longest = "999999999999w".repeat(MAX_DURATION_BYTES / 13);
        assert!(millis(&longest).is_some());
        assert_eq!(millis(&format!("{longest}999999999999w")), None);
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, expected) in [
            ("65536", 65_536),
            ("256B", 256),
            ("64KiB", 65_536),
            (" 4 MiB ", 4 << 20),
            ("4mib", 4 << 20),
            ("4Mi", 4 << 20),
            ("1.5GiB", 3 << 29),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(size(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn sizes_that_could_mean_something_else_are_refused() {
        let texts = [
            "4MB",
            "4M",
            "4k",
            "4kb",
            "4G",
            "1.5",
            "1..5KiB",
            "1 000KiB",
            "KiB",
            "",
            "-1",
            "+1",
            "4 M iB",
            "99999999999TiB",
        ];
        for text in texts {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn urls_are_valid_unless_they_are_files() {
        let schemes = ["redis", "sqlite", "postgres"];
        for text in [
            "redis://:p%40ss@h:6379/0",
            "postgres:///db?host=/run",
            "sqlite:a.db",
            "sqlite://a:b.db",
            "sqlite::memory:",
        ] {
            assert_eq!(url(text, &schemes).as_deref(), Ok(text));
        }
        for text in
            ["redis://h:99999", "redis://[::1", "redis://", "redis:", "h:6379", "http://h", "redis://h h"]
        {
            assert!(url(text, &schemes).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn simple_durations_are_their_number_times_the_unit(
            number in 0_u64..1_000_000_000_000,
            (unit, factor) in prop::sample::select(vec![("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("", 1_000)]),
            space in prop::sample::select(vec!["", " "]),
        ) {
            prop_assert_eq!(millis(&format!("{number}{space}{unit}")), Some(u128::from(number) * factor));
        }

        #[test]
        fn simple_sizes_are_their_number_times_the_unit(
            number in 0_usize..1 << 33,
            (unit, shift) in prop::sample::select(vec![("", 0), ("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30)]),
            space in prop::sample::select(vec!["", " "]),
        ) {
            prop_assert_eq!(size(&format!("{number}{space}{unit}")), Some(number << shift));
        }

        #[test]
        fn printed_durations_are_parsed_again(millis in 0_u64..1_000_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(self::duration(&duration_text(duration), Duration::ZERO..=Duration::MAX), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "[0-9.smhdwyµ ]{0,80}|.*") {
            let _ = (millis(&text), size(&text));
        }
    }
}
