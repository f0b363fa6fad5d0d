//! Tests of the routes by direct calls, and of the server through real sockets.

mod answers;
mod attacks;
mod impressions;
pub(super) mod limits;
mod ofrep;
mod protection;
mod sdk_streams;

use std::time::Duration;

use anyhow::Context;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

use super::*;
use crate::shutdown::Shutdown;

fn http_state() -> HttpState {
    let health = Arc::new(Registry::new("test-1"));
    HttpState { health, metrics: Metrics::new(), api: None, authenticator: None, allowed_hosts: None }
}

async fn ask(router: Router, method: Method, path: &str) -> anyhow::Result<(StatusCode, String, Vec<u8>)> {
    let request = Request::builder().method(method).uri(path).body(Body::empty())?;
    let response = router.oneshot(request).await?;
    let content_type = response.headers().get(CONTENT_TYPE).map(|value| value.to_str());
    let content_type = content_type.transpose()?.unwrap_or_default().to_owned();
    let status = response.status();
    Ok((status, content_type, to_bytes(response.into_body(), MAX_BODY_BYTES).await?.into()))
}

#[tokio::test]
async fn health_follows_the_parts() -> anyhow::Result<()> {
    let http_state = http_state();
    let store = http_state.health.reporter("store", true);
    store.starting("reading feature-flag-definitions");
    let router = router(http_state.clone(), true);

    let (live, ..) = ask(router.clone(), Method::GET, "/health/live").await?;
    assert_eq!(live, StatusCode::OK);
    let (ready, _, body) = ask(router.clone(), Method::GET, "/health/ready").await?;
    assert_eq!(ready, StatusCode::SERVICE_UNAVAILABLE);
    let body: Value = serde_json::from_slice(&body)?;
    assert_eq!(body["parts"]["store"]["detail"], "reading feature-flag-definitions");

    store.up();
    assert_eq!(ask(router.clone(), Method::GET, "/health/ready").await?.0, StatusCode::OK);
    let (status, content_type, body) = ask(router, Method::GET, "/health").await?;
    let body: Value = serde_json::from_slice(&body)?;
    assert_eq!((status, content_type.as_str()), (StatusCode::OK, "application/json"));
    assert_eq!(body["instance"], "test-1");
    assert_eq!(body["parts"]["store"]["state"], "up");
    assert_eq!(body["parts"]["store"]["required_for_ready"], true);
    assert!(body["parts"]["store"]["since"].is_string());
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_is_a_problem() -> anyhow::Result<()> {
    for (method, path, expected) in [
        (Method::GET, "/nowhere", StatusCode::NOT_FOUND),
        (Method::POST, "/health", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let (status, content_type, body) = ask(router(http_state(), true), method, path).await?;
        let body: Value = serde_json::from_slice(&body)?;
        assert_eq!((status, content_type.as_str()), (expected, "application/problem+json"));
        assert_eq!(body["status"], expected.as_u16());
        assert!(body["title"].is_string() && body["detail"].is_string() && body["type"].is_string());
    }
    let answer = router(http_state(), true).oneshot(Request::post("/health").body(Body::empty())?).await?;
    assert!(answer.headers().contains_key(axum::http::header::ALLOW));
    Ok(())
}

#[tokio::test]
async fn metrics_move_to_the_listener_for_operators() -> anyhow::Result<()> {
    let http_state = http_state();
    http_state.metrics.requests.inc();
    let (status, content_type, text) = ask(admin_router(http_state.clone()), Method::GET, "/metrics").await?;
    assert_eq!((status, content_type.as_str()), (StatusCode::OK, METRICS_TYPE));
    assert!(String::from_utf8(text)?.contains("flagstream_requests_total 1"));
    let (status, ..) = ask(router(http_state, false), Method::GET, "/metrics").await?;
    assert_eq!(status, StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test]
async fn a_taken_address_is_named() -> anyhow::Result<()> {
    let first = Server::bind("A", "127.0.0.1:0".parse()?).await?;
    let address = first.address()?;
    let second = Server::bind("FLAGSTREAM_HTTP__LISTEN", address).await;
    let error = second.err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(error.contains(&address.to_string()) && error.contains("FLAGSTREAM_HTTP__LISTEN"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_stop_waits_for_answers_and_closes_idle_connections() -> anyhow::Result<()> {
    let (entered, mut started) = tokio::sync::mpsc::channel(1);
    let slow = move || async move {
        let _ = entered.send(()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        "done"
    };
    let routes = Router::new().route("/slow", get(slow));
    let server = Server::bind("A", "127.0.0.1:0".parse()?).await?;
    let (address, shutdown) = (server.address()?, Shutdown::new());
    let serving = tokio::spawn(server.run(routes, shutdown.clone()));

    let mut idle = TcpStream::connect(address).await?;
    let mut busy = TcpStream::connect(address).await?;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    started.recv().await;
    shutdown.cancel();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await?;
    assert!(answer.ends_with("done"), "{answer}");
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap_or(0), 0);
    serving.await??;
    assert!(TcpStream::connect(address).await.is_err());
    Ok(())
}

/// Creates a certificate and key for `localhost` as files.
#[cfg(feature = "tls")]
pub(crate) fn certificate(folder: &std::path::Path) -> anyhow::Result<crate::config::TlsConfig> {
    use openssl::{asn1::Asn1Time, ec, hash::MessageDigest, nid::Nid, pkey::PKey, x509};

    let group = ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(ec::EcKey::generate(&group)?)?;
    let mut name = x509::X509NameBuilder::new()?;
    name.append_entry_by_text("CN", "localhost")?;
    let name = name.build();
    let mut builder = x509::X509::builder()?;
    builder.set_version(2)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(&key)?;
    builder.set_not_before(Asn1Time::days_from_now(0)?.as_ref())?;
    builder.set_not_after(Asn1Time::days_from_now(2)?.as_ref())?;
    let mut alternative = x509::extension::SubjectAlternativeName::new();
    alternative.dns("localhost");
    let alternative = alternative.build(&builder.x509v3_context(None, None))?;
    builder.append_extension(alternative)?;
    builder.sign(&key, MessageDigest::sha256())?;
    let files =
        crate::config::TlsConfig { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.certificate, builder.build().to_pem()?)?;
    std::fs::write(&files.key, key.private_key_to_pem_pkcs8()?)?;
    Ok(files)
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn an_encrypted_listener_speaks_tls_only() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let files = certificate(folder.path())?;
    let mut server = Server::bind("A", "127.0.0.1:0".parse()?).await?;
    let swapped = crate::config::TlsConfig { certificate: files.key.clone(), key: files.key.clone() };
    let error = server.encrypt(&swapped).err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(error.contains("key.pem: expected at least one PEM certificate"), "{error}");
    server.encrypt(&files)?;
    let (address, shutdown) = (server.address()?, Shutdown::new());
    let serving = tokio::spawn(server.run(router(http_state(), true), shutdown.clone()));
    let trusted = reqwest::Certificate::from_pem(&std::fs::read(&files.certificate)?)?;
    let client = reqwest::Client::builder().add_root_certificate(trusted).no_proxy();
    let client = client.resolve("localhost", address).build()?;
    let answer = client.get(format!("https://localhost:{}/health/live", address.port())).send().await?;
    assert_eq!(answer.status(), 200);
    let plain = reqwest::Client::builder().no_proxy().build()?;
    assert!(plain.get(format!("http://{address}/health/live")).send().await.is_err());
    shutdown.cancel();
    serving.await??;
    Ok(())
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart() -> anyhow::Result<()> {
    let (folder, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (files, new) = (certificate(folder.path())?, certificate(other.path())?);
    let mut server = Server::bind("A", "127.0.0.1:0".parse()?).await?;
    server.encrypt(&files)?;
    let (tls, address, shutdown) = (server.tls().context("TLS")?, server.address()?, Shutdown::new());
    let serving = tokio::spawn(server.run(router(http_state(), true), shutdown.clone()));
    let url = format!("https://localhost:{}/health/live", address.port());
    let trusting = |pem: &[u8]| -> anyhow::Result<reqwest::Client> {
        let client = reqwest::Client::builder().add_root_certificate(reqwest::Certificate::from_pem(pem)?);
        Ok(client.no_proxy().resolve("localhost", address).build()?)
    };
    let old_client = trusting(&std::fs::read(&files.certificate)?)?;
    let new_client = trusting(&std::fs::read(&new.certificate)?)?;
    assert_eq!(old_client.get(&url).send().await?.status(), 200);
    assert!(new_client.get(&url).send().await.is_err());

    std::fs::copy(&new.certificate, &files.certificate)?;
    std::fs::copy(&new.key, &files.key)?;
    assert_eq!(tls.reload(), tls::Reload::Reloaded);
    assert_eq!(new_client.get(&url).send().await?.status(), 200);
    // A connection that was opened with the previous certificate stays open.
    assert_eq!(old_client.get(&url).send().await?.status(), 200);
    shutdown.cancel();
    serving.await??;
    Ok(())
}
