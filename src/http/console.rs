//! The web console: files that are built into the binary, under a path that contains their hash.
//!
//! `/console/` is a page that names the current path and must not be cached. Everything else is under
//! `/console/{hash}/` and never changes, so browsers keep it. The pages call the public API only.

mod files;

use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    VARY, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;

use super::Problem;
use super::api::Api;
use crate::config::ConsoleConfig;

use files::{Asset, FILES};

/// Allows the console only its own files, and no embedding in frames.
const POLICY: &str =
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'";
/// Placeholder of the hashed path in the page.
const PLACEHOLDER: &str = "{{base}}";
const PAGE: &str = "index.html";
/// Path segment in place of the hash if the files are read from a folder.
const FROM_FOLDER: &str = "files";

/// Hashed path, and the page that names it.
static BUILT_IN: LazyLock<(String, Bytes)> = LazyLock::new(|| {
    let hash = files::hash();
    let page = FILES.iter().find(|file| file.path == PAGE).map_or(&b""[..], |file| file.bytes);
    let page = String::from_utf8_lossy(page).replace(PLACEHOLDER, &format!("/console/{hash}"));
    (hash, page.into_bytes().into())
});

/// Routes of the console; none if it is disabled.
pub(super) fn routes(config: &ConsoleConfig) -> Router<Arc<Api>> {
    if !config.enabled {
        return Router::new();
    }
    Router::new()
        .route("/console", get(async || Redirect::permanent("/console/")))
        .route("/console/", get(page))
        .route("/console/{hash}/{*file}", get(file))
}

async fn page(State(api): State<Arc<Api>>) -> Response {
    let body = match &api.config.console.directory {
        None => BUILT_IN.1.clone(),
        Some(directory) => match tokio::fs::read_to_string(directory.join(PAGE)).await {
            Ok(page) => page.replace(PLACEHOLDER, &format!("/console/{FROM_FOLDER}")).into_bytes().into(),
            Err(error) => {
                let detail = format!("{}: {error}", directory.join(PAGE).display());
                return Problem::new(StatusCode::NOT_FOUND, detail).into_response();
            }
        },
    };
    with_headers(body, "text/html; charset=utf-8", "no-cache")
}

async fn file(
    State(api): State<Arc<Api>>,
    Path((hash, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let missing = || Problem::new(StatusCode::NOT_FOUND, "no such file").into_response();
    let Some(kind) = content_type(&path) else { return missing() };
    if let Some(directory) = &api.config.console.directory {
        let Some(path) = inside(directory, &path) else { return missing() };
        return match tokio::fs::read(path).await {
            Ok(bytes) => with_headers(bytes.into(), kind, "no-store"),
            Err(_) => missing(),
        };
    }
    // A page of another version asks for a path that this instance does not have, and is loaded again.
    let found = files::assets().iter().find(|file| file.path == path && hash == BUILT_IN.0);
    let Some(Asset { plain, gzip, .. }) = found else { return missing() };
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_accepted = accepted.split(',').any(|coding| coding.trim().starts_with("gzip"));
    let body = if is_accepted { gzip.clone() } else { plain.clone() };
    let mut response = with_headers(body, kind, "public, max-age=31536000, immutable");
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    if is_accepted {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn with_headers(body: Bytes, kind: &'static str, caching: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, caching),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn content_type(path: &str) -> Option<&'static str> {
    match path.rsplit_once('.')?.1 {
        "js" => Some("text/javascript; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}

/// Path of a file inside a folder. `None` for a path that leaves the folder.
fn inside(directory: &FilePath, path: &str) -> Option<PathBuf> {
    let path = FilePath::new(path);
    let is_plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    is_plain.then(|| directory.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest size of all files as they are sent, in bytes.
    const CONSOLE_MAX_BYTES: usize = 60_000;

    #[test]
    fn the_console_is_small() {
        let sizes = files::assets().iter().map(|file| file.gzip.len());
        let all: usize = sizes.sum();
        assert!(all <= CONSOLE_MAX_BYTES, "{all} bytes");
    }

    #[test]
    fn every_file_of_the_folder_is_built_in() {
        let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("console");
        let mut found = Vec::new();
        let mut folders = vec![folder.clone()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if content_type(&path.to_string_lossy()).is_some() {
                    let relative = path.strip_prefix(&folder).unwrap_or(&path);
                    found.push(relative.to_string_lossy().into_owned());
                }
            }
        }
        found.push(PAGE.to_owned());
        found.sort();
        let mut built: Vec<_> = FILES.iter().map(|file| file.path.to_owned()).collect();
        built.sort();
        assert_eq!(built, found, "src/http/console/files.rs lists the files of console/");
    }

    #[test]
    fn the_page_has_no_inline_script_or_style() {
        let page = String::from_utf8_lossy(&BUILT_IN.1).into_owned();
        assert!(page.contains(&format!("/console/{}/", BUILT_IN.0)) && !page.contains(PLACEHOLDER), "{page}");
        assert!(!page.contains("<style") && !page.contains("style=") && !page.contains("onclick"), "{page}");
        assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=").count());
    }

    #[test]
    fn no_file_is_served_from_outside_of_the_folder() {
        let folder = FilePath::new("/srv/console");
        assert_eq!(inside(folder, "pages/flags.js"), Some(folder.join("pages/flags.js")));
        for path in ["../secret.js", "/etc/x.js", "a/../../x.js", "./x.js/.."] {
            assert_eq!(inside(folder, path), None, "{path}");
        }
    }
}
