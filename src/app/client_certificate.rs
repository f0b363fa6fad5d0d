//! The certificate with which this process identifies itself to Kafka.
//!
//! Kafka's clients read their files once, when they are created, and a client is created for each worker, group and
//! producer. When the files change, the process therefore stops in order and executes itself again: with the same id,
//! arguments and environment, and as the same member of its groups, so that no partition moves.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::KafkaConfig;
use crate::log_limit::limited;
use crate::metrics::Certificates;

/// Interval at which the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Longest random delay before the restart, so that the instances of a deployment do not restart at the same moment.
const RESTART_SPREAD: Duration = Duration::from_secs(10);

/// The properties of librdkafka that name files of certificates and keys.
const FILES: [&str; 4] =
    ["ssl.certificate.location", "ssl.key.location", "ssl.ca.location", "ssl.keystore.location"];

/// The content of the files; `None` for a file that cannot be read.
type Contents = Vec<Option<Vec<u8>>>;

/// Records when the certificate of `ssl.certificate.location` expires. Kafka's clients report themselves what is wrong
/// with it.
pub(super) fn note(kafka: &KafkaConfig, certificates: &Certificates) {
    let file = kafka.client.get("ssl.certificate.location").map(|file| file.expose().to_owned());
    let read = file.and_then(|file| std::fs::read(file).ok());
    if let Some(expires) = read.and_then(|pem| expiry(&pem)) {
        certificates.set("kafka", expires);
    }
}

/// Completes when the files have changed and can be used. Never completes if there are no files.
pub(super) async fn changed(kafka: &KafkaConfig) {
    let files: Vec<PathBuf> =
        FILES.iter().filter_map(|name| kafka.client.get(*name)).map(|file| file.expose().into()).collect();
    if files.is_empty() {
        return std::future::pending().await;
    }
    let first = read(&files).await;
    let (mut before, mut refused) = (first.clone(), None);
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let now = read(&files).await;
        // A check can fall between the writes of two files, so the change must be seen twice.
        let is_settled = now == before;
        before = now;
        if !is_settled || before == first || Some(&before) == refused.as_ref() {
            continue;
        }
        if let Err(why) = usable(kafka, &before) {
            limited!(error, "the new certificate for Kafka cannot be used: {why}; the one in use stays");
            refused = Some(before.clone());
            continue;
        }
        let delay = RESTART_SPREAD.mul_f64(rand::random());
        tracing::info!(
            seconds = delay.as_secs_f32(),
            "the certificate for Kafka has changed: restarting with it"
        );
        return tokio::time::sleep(delay).await;
    }
}

async fn read(files: &[PathBuf]) -> Contents {
    let mut contents = Vec::with_capacity(files.len());
    for file in files {
        contents.push(tokio::fs::read(file).await.ok());
    }
    contents
}

/// Whether the files can be read and, if they are PEM files, the key belongs to the certificate.
fn usable(kafka: &KafkaConfig, contents: &Contents) -> Result<(), String> {
    let configured = FILES.iter().filter(|name| kafka.client.contains_key(**name));
    let of = |wanted: &str| {
        let mut named = configured.clone().zip(contents).filter(|(name, _)| **name == wanted);
        named.next().and_then(|(_, content)| content.as_deref())
    };
    if let Some((name, _)) = configured.clone().zip(contents).find(|(_, content)| content.is_none()) {
        return Err(format!("the file of {name} cannot be read"));
    }
    let has_password = kafka.client.contains_key("ssl.key.password");
    match (of("ssl.certificate.location"), of("ssl.key.location")) {
        (Some(certificate), Some(key)) if !has_password => pair(certificate, key),
        _ => Ok(()),
    }
}

#[cfg(feature = "tls")]
fn expiry(pem: &[u8]) -> Option<i64> {
    let certificate = openssl::x509::X509::from_pem(pem).ok()?;
    Some(crate::http::tls::unix_seconds(certificate.not_after()))
}

#[cfg(feature = "tls")]
fn pair(certificate: &[u8], key: &[u8]) -> Result<(), String> {
    let certificate = openssl::x509::X509::from_pem(certificate);
    let certificate = certificate.map_err(|_| "the certificate is not PEM".to_owned())?;
    // Without a callback OpenSSL would ask for the password of an encrypted key on the terminal.
    let key = openssl::pkey::PKey::private_key_from_pem_callback(key, |_| Ok(0));
    let key = key.map_err(|_| "the key is not PEM, or has a password".to_owned())?;
    let public = certificate.public_key().map_err(|error| error.to_string())?;
    if public.public_eq(&key) { Ok(()) } else { Err("the key does not belong to the certificate".to_owned()) }
}

#[cfg(not(feature = "tls"))]
fn expiry(_: &[u8]) -> Option<i64> {
    None
}

#[cfg(not(feature = "tls"))]
fn pair(_: &[u8], _: &[u8]) -> Result<(), String> {
    Ok(())
}
