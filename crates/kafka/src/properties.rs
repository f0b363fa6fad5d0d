//! librdkafka properties: which ones an operator may set, and which are reserved because guarantees depend on them.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use rdkafka::types::RDKafkaConfRes;

use super::Secret;

/// Reserved properties, with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set KAFKA_BOOTSTRAP_SERVERS"),
    ("metadata.broker.list", "set KAFKA_BOOTSTRAP_SERVERS"),
    ("client.id", "it is derived from the group id and FLAGSTREAM_INSTANCE"),
    ("group.id", "set FLAGSTREAM_KAFKA__GROUP_ID"),
    ("group.instance.id", "it is derived from FLAGSTREAM_INSTANCE"),
    ("group.protocol", "set FLAGSTREAM_KAFKA__GROUP_PROTOCOL"),
    ("partition.assignment.strategy", "the handling of rebalances depends on it"),
    ("session.timeout.ms", "set FLAGSTREAM_DELIVERY__SESSION_TIMEOUT"),
    ("transactional.id", "it is derived from FLAGSTREAM_INSTANCE"),
    ("transaction.timeout.ms", "set FLAGSTREAM_DELIVERY__TRANSACTION_TIMEOUT"),
    ("enable.idempotence", EXACTLY_ONCE),
    ("enable.gapless.guarantee", EXACTLY_ONCE),
    ("acks", EXACTLY_ONCE),
    ("request.required.acks", EXACTLY_ONCE),
    ("retries", EXACTLY_ONCE),
    ("message.send.max.retries", EXACTLY_ONCE),
    ("max.in.flight", EXACTLY_ONCE),
    ("max.in.flight.requests.per.connection", EXACTLY_ONCE),
    ("message.timeout.ms", EXACTLY_ONCE),
    ("delivery.timeout.ms", EXACTLY_ONCE),
    ("isolation.level", EXACTLY_ONCE),
    ("enable.auto.commit", EXACTLY_ONCE),
    ("auto.commit.enable", EXACTLY_ONCE),
    ("enable.auto.offset.store", EXACTLY_ONCE),
    ("auto.offset.reset", EXACTLY_ONCE),
    ("enable.partition.eof", "flagstream detects the end of a topic with it"),
    ("delivery.report.only.error", "flagstream counts acknowledgements with it"),
    ("partitioner", "results must be in the partition of their request"),
    ("allow.auto.create.topics", "a reply must not create a topic"),
];

const EXACTLY_ONCE: &str = "exactly-once delivery depends on it";

/// Converts the last part of a variable to a property name: `SECURITY_PROTOCOL` becomes `security.protocol`.
pub fn property_of(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', ".")
}

/// The authentication methods of this build.
const SUPPORTED: &str = "this build supports PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 in `sasl.mechanism`, and client \
    certificates (`ssl.certificate.location`, `ssl.key.location`)";

/// Advice for mechanisms with which clusters of AWS MSK offer IAM.
const FOR_MSK: &str = "; for AWS MSK use SCRAM (port 9096) or client certificates (port 9094) instead of IAM";

/// Names of the property that selects the SASL mechanism.
const MECHANISM: [&str; 2] = ["sasl.mechanism", "sasl.mechanisms"];

/// A property that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Name of the property; `None` if the problem concerns several.
    pub property: Option<String>,
    /// The reason, without the value of a secret property.
    pub problem: String,
}

/// Checks all properties: each by itself, and then all together. Returns them by name, or all problems.
pub fn checked(
    properties: impl IntoIterator<Item = (String, String)>,
) -> Result<BTreeMap<String, Secret>, Vec<Invalid>> {
    let (mut valid, mut problems) = (BTreeMap::new(), Vec::new());
    for (property, value) in properties {
        match check(&property, &value) {
            Ok(()) => drop(valid.insert(property, Secret::new(value))),
            Err(problem) => problems.push(Invalid { property: Some(property), problem }),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    match check_together(&valid) {
        Ok(()) => Ok(valid),
        Err((property, problem)) => Err(vec![Invalid { property: property.map(str::to_owned), problem }]),
    }
}

/// Checks that librdkafka knows the property and accepts the value, and that the property is not reserved. The error
/// contains librdkafka's reason, but never the value of a secret property.
fn check(property: &str, value: &str) -> Result<(), String> {
    if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == property) {
        return Err(format!("`{property}` cannot be changed: {reason}"));
    }
    match ClientConfig::new().set(property, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Err(format!("`{property}` is not a property of librdkafka"))
        }
        Err(_) if property == "sasl.oauthbearer.method" && value.eq_ignore_ascii_case("oidc") => {
            Err(format!("`{property}` cannot be oidc, because librdkafka is built without curl: {SUPPORTED}"))
        }
        Err(KafkaError::ClientConfig(_, reason, ..)) if !secret_name(property) => {
            Err(format!("invalid value for `{property}`: {reason}"))
        }
        Err(_) => Err(format!("invalid value for `{property}`")),
    }
}

/// Checks what depends on all properties together: unreadable files, a mechanism that this build lacks. The error
/// contains the name of the property, if it concerns one.
fn check_together(properties: &BTreeMap<String, Secret>) -> Result<(), (Option<&str>, String)> {
    if properties.is_empty() {
        return Ok(());
    }
    let mechanism = properties.iter().find(|(name, _)| MECHANISM.contains(&name.as_str()));
    let is = |wanted| mechanism.is_some_and(|(_, value)| value.expose().eq_ignore_ascii_case(wanted));
    let advice = if is("OAUTHBEARER") || is("AWS_MSK_IAM") { FOR_MSK } else { "" };
    let makes_tokens = properties
        .get("enable.sasl.oauthbearer.unsecure.jwt")
        .is_some_and(|value| value.expose().eq_ignore_ascii_case("true"));
    if let (Some((name, _)), true, false) = (mechanism, is("OAUTHBEARER"), makes_tokens) {
        let problem = format!(
            "`{name}` cannot be OAUTHBEARER, because there is no source of tokens: {SUPPORTED}{advice}"
        );
        return Err((Some(name), problem));
    }
    let mut config = ClientConfig::new();
    for (name, value) in properties {
        config.set(name, value.expose());
    }
    // Without bootstrap servers the client connects to nothing.
    match config.create::<BaseProducer>() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientCreation(reason)) if reason.contains("SASL mechanism") => {
            Err((mechanism.map(|(name, _)| name.as_str()), format!("{reason}: {SUPPORTED}{advice}")))
        }
        Err(KafkaError::ClientCreation(reason)) => Err((None, reason)),
        Err(error) => Err((None, error.to_string())),
    }
}

/// Whether a property of this name contains a secret.
pub fn secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "passphrase", "secret", "token", "key.pem", "oauthbearer.config", "apikey"]
        .iter()
        .any(|part| name.contains(part))
        // The location of a secret is not secret.
        && !name.ends_with(".url")
        && !name.ends_with(".location")
        && !name.ends_with(".file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn together(pairs: &[(&str, &str)]) -> Result<(), String> {
        let properties = pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value)));
        check_together(&properties.collect()).map_err(|(_, problem)| problem)
    }

    #[test]
    fn a_refused_value_comes_with_the_reason_of_librdkafka_but_no_secret() {
        let error = check("security.protocol", "carrier-pigeon").err().unwrap_or_default();
        assert!(error.starts_with("invalid value for `security.protocol`: ") && error.len() > 60, "{error}");
        let error = check("socket.timeout.ms", "1").err().unwrap_or_default();
        assert!(error.contains("10..300000"), "{error}");
        assert!(check("sasl.password", "hidden").is_ok());
        let error = check("sasl.oauthbearer.method", "oidc").err().unwrap_or_default();
        assert!(error.contains("curl") && error.contains("SCRAM-SHA-512"), "{error}");
    }

    #[test]
    fn a_mechanism_that_this_build_lacks_is_refused_with_those_that_it_has() {
        let sasl = ("security.protocol", "sasl_plaintext");
        for mechanism in ["OAUTHBEARER", "GSSAPI", "AWS_MSK_IAM"] {
            for name in MECHANISM {
                let error = together(&[sasl, (name, mechanism)]).err().unwrap_or_default();
                assert!(error.contains(mechanism) && error.contains("PLAIN, SCRAM-SHA-256"), "{error}");
                assert_eq!(error.contains("port 9096"), mechanism != "GSSAPI", "{error}");
            }
        }
        let unsecure = ("enable.sasl.oauthbearer.unsecure.jwt", "true");
        assert_eq!(together(&[sasl, ("sasl.mechanism", "OAUTHBEARER"), unsecure]), Ok(()));
        let user = [("sasl.username", "u"), ("sasl.password", "p")];
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            assert_eq!(together(&[sasl, ("sasl.mechanism", mechanism), user[0], user[1]]), Ok(()));
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = together(&[("security.protocol", "ssl"), ("ssl.ca.location", "/none/ca.pem")]);
        let error = error.err().unwrap_or_default();
        assert!(error.contains("ssl.ca.location"), "{error}");
    }

    #[test]
    fn secrets_among_librdkafka_properties_are_known() {
        for name in ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"] {
            assert!(secret_name(name), "{name}");
        }
        for name in [
            "sasl.username",
            "ssl.ca.location",
            "security.protocol",
            "ssl.certificate.pem",
            "sasl.oauthbearer.token.endpoint.url",
        ] {
            assert!(!secret_name(name), "{name}");
        }
    }
}
