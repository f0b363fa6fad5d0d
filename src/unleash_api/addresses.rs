//! The address of a caller behind proxies.
//!
//! Only a trusted proxy may say for whom it calls. The list of addresses is walked from its end, which is the part that
//! the nearest proxy has written; the first address that is not a trusted proxy is the caller's. A header from any other
//! peer is ignored.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::{FORWARDED, HeaderName};
use axum::http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Address of the caller, given the peer of the connection. `Forwarded` takes precedence over `X-Forwarded-For`.
pub fn caller(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(&peer) {
        return peer;
    }
    let texts = |name: HeaderName| -> Vec<&str> {
        headers.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok()).collect()
    };
    let forwarded = texts(FORWARDED);
    let listed: Vec<Option<IpAddr>> = if forwarded.is_empty() {
        let listed = texts(X_FORWARDED_FOR);
        listed.iter().flat_map(|text| text.split(',')).map(address).collect()
    } else {
        forwarded.iter().flat_map(|text| text.split(',')).map(forwarded_for).collect()
    };
    let mut nearest = peer;
    for address in listed.into_iter().rev() {
        // An obfuscated or invalid entry hides everything before it.
        let Some(address) = address else { break };
        nearest = address;
        if !is_trusted(&address) {
            break;
        }
    }
    nearest
}

/// Extracts the address of `for` from one element of `Forwarded` (RFC 7239).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(node.trim().trim_matches('"'))
}

/// Parses an address, with or without brackets and port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    parsed.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(peer: &str, trusted: &[&str], headers: &[(&'static str, &str)]) -> String {
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        caller(&map, peer.parse().unwrap(), &trusted).to_string()
    }

    const PROXIES: [&str; 2] = ["10.0.0.0/8", "::1/128"];

    #[test]
    fn a_header_of_an_untrusted_peer_is_ignored() {
        let spoofed = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4")];
        assert_eq!(of("198.51.100.7", &PROXIES, &spoofed), "198.51.100.7");
        assert_eq!(of("10.0.0.1", &[], &spoofed), "10.0.0.1");
        assert_eq!(of("::ffff:198.51.100.7", &PROXIES, &spoofed), "198.51.100.7");
    }

    #[test]
    fn the_list_is_walked_from_the_right_past_trusted_proxies() {
        let table: [(&[(&'static str, &str)], &str); 10] = [
            (&[("x-forwarded-for", "198.51.100.7")], "198.51.100.7"),
            (&[("x-forwarded-for", "6.6.6.6, 198.51.100.7, 10.0.0.2")], "198.51.100.7"),
            (&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "198.51.100.7,10.0.0.2")], "198.51.100.7"),
            (&[("x-forwarded-for", "198.51.100.7:4711")], "198.51.100.7"),
            (&[("x-forwarded-for", "[2001:db8::7]:80")], "2001:db8::7"),
            (&[("x-forwarded-for", "6.6.6.6, unknown, 10.0.0.2")], "10.0.0.2"),
            (&[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
            (&[("x-forwarded-for", "")], "10.0.0.1"),
            (&[("forwarded", "For=\"[2001:db8::7]:4711\";proto=https, for=10.0.0.2")], "2001:db8::7"),
            (&[("forwarded", "for=198.51.100.7"), ("x-forwarded-for", "6.6.6.6")], "198.51.100.7"),
        ];
        for (headers, expected) in table {
            assert_eq!(of("10.0.0.1", &PROXIES, headers), expected, "{headers:?}");
        }
        assert_eq!(of("10.0.0.1", &PROXIES, &[("forwarded", "for=_hidden, for=unknown")]), "10.0.0.1");
    }
}
