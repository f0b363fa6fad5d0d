//! Measures the duration of calls, by route and class of the status.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};

use crate::metrics::{CallLabels, Metrics};

/// Route of calls that match no route. Callers choose those paths, so they must not become labels.
const NO_ROUTE: &str = "(none)";

/// A call that is being answered.
#[derive(Debug)]
pub(super) struct Measured {
    begun: Instant,
    method: &'static str,
    route: String,
}

impl Measured {
    pub(super) fn begin(request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str);
        Self { begun: Instant::now(), method: method(request.method()), route: route.to_owned() }
    }

    pub(super) fn method(&self) -> &'static str {
        self.method
    }

    pub(super) fn route(&self) -> &str {
        &self.route
    }

    /// A call that matches no route.
    pub(super) fn of_no_route(asked: &Method) -> Self {
        Self { begun: Instant::now(), method: method(asked), route: NO_ROUTE.to_owned() }
    }

    /// Counts the call, with its duration until now.
    pub(super) fn end(self, metrics: &Metrics, status: StatusCode) {
        let labels = CallLabels { method: self.method, route: self.route, status: class(status) };
        metrics.http.calls.get_or_create(&labels).observe(self.begun.elapsed().as_secs_f64());
    }
}

/// Name of the method. Callers can invent methods, so unknown ones share a name.
fn method(method: &Method) -> &'static str {
    let known = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::HEAD,
        Method::OPTIONS,
    ];
    let names = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
    known.iter().zip(names).find(|(known, _)| *known == method).map_or("other", |(_, name)| name)
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
