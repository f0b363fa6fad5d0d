//! Client of the schema registry API by Confluent, which other registries implement too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, StatusCode, Url};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config::{SchemaRegistryConfig, Secret};

/// Timeout for connecting to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);
/// Timeout of a lookup at one address. It is short because the caller waits for it; registering a schema may take
/// longer.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of a registration or a compatibility check at one address.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// Upper bound of a response in bytes; larger ones are not read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Number of characters of a registry's error message that are repeated.
const ERROR_CHARS_MAX: usize = 300;

/// Reason why a request to the registry failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The registry is unreachable or reported an internal error. The request may be retried.
    #[error("{0}")]
    Away(String),
    /// The registry rejected the request.
    #[error("{0}")]
    Refused(String),
    /// The response is larger than the limit. A retry would return the same.
    #[error("{0}")]
    TooLarge(String),
}

/// A schema registry with one or more addresses.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    places: Vec<Endpoint>,
    /// Index of the address that answered last.
    good: AtomicUsize,
    auto_register: bool,
}

#[derive(Debug)]
struct Endpoint {
    /// Base URL without credentials.
    base: Url,
    user: Option<(String, Secret)>,
}

/// A schema as the registry returns it.
#[derive(Debug, Deserialize)]
pub struct Registered {
    pub schema: String,
    #[serde(rename = "schemaType", default = "avro")]
    pub schema_type: String,
    /// Other schemas that are needed to parse it.
    #[serde(default)]
    pub references: Vec<Reference>,
}

/// A reference to another schema, which defines a type that is used.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct Reference {
    pub subject: String,
    pub version: u32,
}

#[derive(Serialize)]
struct Body<'s> {
    schema: &'s str,
}

#[derive(Deserialize)]
struct Id {
    id: u32,
}

#[derive(Deserialize)]
struct Compatibility {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    message: String,
}

fn avro() -> String {
    "AVRO".to_owned()
}

impl Registered {
    pub fn is_avro(&self) -> bool {
        self.schema_type == "AVRO"
    }
}

impl Client {
    /// Creates a client; `None` if no registry is configured.
    pub fn new(config: &SchemaRegistryConfig) -> anyhow::Result<Option<Self>> {
        let places = config.urls.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        if places.is_empty() {
            return Ok(None);
        }
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT);
        if let Some(path) = &config.ca_certificate {
            let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .with_context(|| format!("{}: expected at least one PEM certificate", path.display()))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let http = builder.build().context("the HTTP client for the schema registry cannot be created")?;
        Ok(Some(Self { http, places, good: AtomicUsize::new(0), auto_register: config.auto_register }))
    }

    /// The base URLs, without credentials.
    pub fn addresses(&self) -> Vec<String> {
        self.places.iter().map(|place| place.base.to_string()).collect()
    }

    /// Checks that the registry answers.
    pub async fn pulse(&self) -> Result<(), RegistryError> {
        let _: Option<IgnoredAny> = self.ask(Method::GET, &["schemas", "types"], None).await?;
        Ok(())
    }

    /// The schema with this id; `None` if the registry does not have it.
    pub async fn schema(&self, id: u32) -> Result<Option<Registered>, RegistryError> {
        self.ask(Method::GET, &["schemas", "ids", &id.to_string()], None).await
    }

    /// A referenced schema; `None` if the registry does not have it.
    pub async fn referred(&self, reference: &Reference) -> Result<Option<Registered>, RegistryError> {
        let path = ["subjects", &reference.subject, "versions", &reference.version.to_string()];
        self.ask(Method::GET, &path, None).await
    }

    /// The id of a schema under a subject. With `auto_register`, a missing schema is registered.
    pub async fn id_of(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        if self.auto_register {
            return self.register(subject, schema).await;
        }
        let found: Option<Id> = self.ask(Method::POST, &["subjects", subject], Some(schema)).await?;
        found.map(|found| found.id).ok_or_else(|| {
            let hint = "register it with `flagstream schemas register`";
            RegistryError::Refused(format!("subject {subject} does not contain flagstream's schema: {hint}"))
        })
    }

    /// Registers a schema under a subject, if it is not registered yet, and returns its id.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let path = ["subjects", subject, "versions"];
        let added: Option<Id> = self.ask(Method::POST, &path, Some(schema)).await?;
        added
            .map(|added| added.id)
            .ok_or_else(|| RegistryError::Refused(format!("subject {subject} does not exist")))
    }

    /// The versions of a subject, oldest first; empty if the subject does not exist.
    pub async fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError> {
        let versions = self.ask(Method::GET, &["subjects", subject, "versions"], None).await?;
        Ok(versions.unwrap_or_default())
    }

    /// Reasons why a schema is incompatible with the latest one of a subject; empty if it is compatible.
    pub async fn incompatibilities(&self, subject: &str, schema: &str) -> Result<Vec<String>, RegistryError> {
        let path = ["compatibility", "subjects", subject, "versions", "latest"];
        let compatibility: Option<Compatibility> = self.ask(Method::POST, &path, Some(schema)).await?;
        Ok(match compatibility {
            Some(Compatibility { is_compatible: false, messages }) if messages.is_empty() => {
                vec!["flagstream's schema is not compatible with the subject's latest schema".to_owned()]
            }
            Some(Compatibility { is_compatible: false, messages }) => messages,
            _ => Vec::new(),
        })
    }

    /// Sends the request to each address until one answers, starting with the one that answered last. `None`: not
    /// found.
    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: &[&str],
        schema: Option<&str>,
    ) -> Result<Option<T>, RegistryError> {
        let first = self.good.load(Ordering::Relaxed);
        let mut away = RegistryError::Away("no address".to_owned());
        for (index, place) in self.places.iter().enumerate().cycle().skip(first).take(self.places.len()) {
            match self.ask_at(place, method.clone(), path, schema).await {
                Err(error @ RegistryError::Away(_)) => away = error,
                answered => {
                    self.good.store(index, Ordering::Relaxed);
                    return answered;
                }
            }
        }
        Err(away)
    }

    async fn ask_at<T: for<'de> Deserialize<'de>>(
        &self,
        place: &Endpoint,
        method: Method,
        path: &[&str],
        schema: Option<&str>,
    ) -> Result<Option<T>, RegistryError> {
        let mut url = place.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let away = |error: reqwest::Error| {
            // The last cause is the most specific one.
            let cause = std::iter::successors(std::error::Error::source(&error), |error| error.source());
            let cause = cause.last().map(|cause| format!(": {cause}")).unwrap_or_default();
            RegistryError::Away(format!("{}: no response{cause}", place.base))
        };
        let mut request = self.http.request(method, url).header(ACCEPT, MEDIA_TYPE);
        if let Some((name, password)) = &place.user {
            request = request.basic_auth(name, Some(password.expose()));
        }
        request = match schema {
            None => request.timeout(LOOKUP_TIMEOUT),
            Some(schema) => {
                let body = serde_json::to_vec(&Body { schema }).unwrap_or_default();
                request.header(CONTENT_TYPE, MEDIA_TYPE).body(body).timeout(REGISTER_TIMEOUT)
            }
        };
        let mut response = request.send().await.map_err(away)?;
        let (status, mut body) = (response.status(), Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(away)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                let limit = format!("the response is larger than {ANSWER_BYTES_MAX} bytes");
                return Err(RegistryError::TooLarge(format!("{}: {limit}", place.base)));
            }
            body.extend_from_slice(&chunk);
        }
        answer(&place.base, status, &body)
    }
}

fn answer<T: for<'de> Deserialize<'de>>(
    base: &Url,
    status: StatusCode,
    body: &[u8],
) -> Result<Option<T>, RegistryError> {
    let cached = || {
        let text = match serde_json::from_slice::<Problem>(body) {
            Ok(problem) if !problem.message.is_empty() => problem.message,
            _ => String::from_utf8_lossy(body).into_owned(),
        };
        format!("{base}: {status}: {}", text.chars().take(ERROR_CHARS_MAX).collect::<String>())
    };
    match status {
        StatusCode::OK => match serde_json::from_slice(body) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => Err(RegistryError::Away(format!(
                "{base}: unexpected response, is this a schema registry? {error}"
            ))),
        },
        // The 404 of a proxy does not count as one of a registry, which responds in JSON.
        StatusCode::NOT_FOUND if serde_json::from_slice::<&RawValue>(body).is_ok() => Ok(None),
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => {
            Err(RegistryError::Refused(cached()))
        }
        _ => Err(RegistryError::Away(cached())),
    }
}

fn place(url: &Secret) -> anyhow::Result<Endpoint> {
    let mut base = Url::parse(url.expose()).context("not a URL")?;
    let decode = |text: &str| {
        // Percent decoding as in a form, except that `+` stays a plus sign.
        let text = text.replace('+', "%2B");
        form_urlencoded::parse(format!("x={text}").as_bytes()).next().map(|(_, text)| text.into_owned())
    };
    let user = decode(base.username()).filter(|name| !name.is_empty());
    let password = decode(base.password().unwrap_or_default()).unwrap_or_default();
    // Both calls succeed for every URL with a host.
    let _ = base.set_password(None).and_then(|()| base.set_username(""));
    Ok(Endpoint { base, user: user.map(|name| (name, Secret::new(password))) })
}
