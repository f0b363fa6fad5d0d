//! Prevents foreign web pages from calling the service through a visitor's browser, by DNS rebinding or by requests
//! that a browser sends without a CORS preflight.

use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode, Uri};

use super::Problem;

/// Header in which browsers report the relation between the page and the service.
const SEC_FETCH_SITE: &str = "sec-fetch-site";
/// Request headers that make a browser send a CORS preflight before a cross-origin request.
const ASKED_FOR_HEADERS: [&str; 4] = ["authorization", "if-match", "x-change-reason", "x-requested-with"];

/// Refuses a request whose host name is not allowed, and a change that a page of another origin sends without a
/// preflight.
pub(super) fn check(allowed_hosts: Option<&[String]>, request: &Request) -> Result<(), Problem> {
    let host = host_of(request.uri(), request.headers());
    if let Some(allowed) = allowed_hosts
        && let Some(name) = host.map(name_of)
        && !is_address(name)
        && !allowed.iter().any(|known| known.eq_ignore_ascii_case(name))
    {
        let detail = "the host name of the request is not allowed; add it to FLAGSTREAM_HTTP__ALLOWED_HOSTS";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && is_sent_unasked(request.headers()) && is_of_another_origin(host, request.headers()) {
        let detail =
            "a web page of another origin must send Content-Type: application/json or X-Requested-With";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(())
}

/// Host and port that the client used: in the URI over HTTP/2, in the `Host` header over HTTP/1.
fn host_of<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    let in_header = headers.get(HOST).and_then(|host| host.to_str().ok());
    uri.authority().map(|authority| authority.as_str()).or(in_header)
}

/// The host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a host is a numeric address. Such a host cannot be the result of DNS rebinding.
fn is_address(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<std::net::IpAddr>().is_ok()
}

/// Whether a browser would send this cross-origin request without a preflight.
fn is_sent_unasked(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_json = content_type.to_ascii_lowercase().starts_with("application/json");
    !is_json && !ASKED_FOR_HEADERS.iter().any(|name| headers.contains_key(*name))
}

/// Whether a browser sends this request for a page of another origin. Other clients send neither of these headers.
fn is_of_another_origin(host: Option<&str>, headers: &HeaderMap) -> bool {
    match (headers.get(SEC_FETCH_SITE), headers.get(ORIGIN)) {
        (Some(site), _) => !matches!(site.as_bytes(), b"same-origin" | b"none"),
        (None, Some(origin)) => {
            let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
            origin.is_none_or(|(_, origin)| Some(origin) != host)
        }
        (None, None) => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().method(method).uri("/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn status(allowed: Option<&[String]>, method: &str, headers: &[(&str, &str)]) -> u16 {
        check(allowed, &request(method, headers)).map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_name_that_is_not_allowed_is_refused_and_addresses_never_are() {
        let allowed = ["localhost".to_owned(), "flags.example.com".to_owned()];
        for host in [
            "localhost",
            "LOCALHOST:8082",
            "flags.example.com:443",
            "127.0.0.1:8082",
            "[::1]:8082",
            "10.1.2.3",
        ] {
            assert_eq!(status(Some(&allowed), "GET", &[("host", host)]), 200, "{host}");
        }
        for host in
            ["evil.example", "evil.example:8082", "localhost.evil.example", "127.0.0.1.evil.example", ""]
        {
            assert_eq!(status(Some(&allowed), "GET", &[("host", host)]), 421, "{host}");
            assert_eq!(status(None, "GET", &[("host", host)]), 200, "{host}");
        }
        // Over HTTP/2 the host is in the URI.
        let rebound = Request::get("http://evil.example:8082/health").body(Body::empty()).unwrap();
        assert_eq!(check(Some(&allowed), &rebound).unwrap_err().status, StatusCode::MISDIRECTED_REQUEST);
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing_unasked() {
        let host = ("host", "localhost:8082");
        let pages = [
            &[("origin", "https://evil.example")][..],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site")],
            &[("origin", "http://localhost:3000"), ("sec-fetch-site", "same-site")],
        ];
        for page in pages {
            for simple in [&[][..], &[("content-type", "text/plain")]] {
                let headers = [&[host], page, simple].concat();
                assert_eq!(status(None, "POST", &headers), 403, "{headers:?}");
                assert_eq!(status(None, "DELETE", &headers), 403, "{headers:?}");
                assert_eq!(status(None, "GET", &headers), 200, "{headers:?}");
            }
            for asked in [
                ("content-type", "application/json; charset=utf-8"),
                ("authorization", "Bearer x"),
                ("x-requested-with", "fetch"),
                ("x-change-reason", "because"),
            ] {
                assert_eq!(status(None, "POST", &[&[host], page, &[asked]].concat()), 200, "{asked:?}");
            }
        }
        // A page of this service, and clients that are not browsers.
        assert_eq!(status(None, "POST", &[host, ("origin", "http://localhost:8082")]), 200);
        assert_eq!(status(None, "POST", &[host, ("sec-fetch-site", "same-origin")]), 200);
        assert_eq!(status(None, "POST", &[host]), 200);
    }
}
