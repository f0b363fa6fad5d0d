//! Checks that the schema registry answers and accepts the schemas of everything that is written in Avro.

use crate::config::Config;
use crate::schema_registry::{Client, Registration, RegistryError, registrations};

use super::Finding;

const PART: &str = "schema-registry";

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let client = match Client::new(&config.schema_registry) {
        Ok(Some(client)) => client,
        Ok(None) => return Vec::new(),
        Err(error) => {
            let advice = "correct FLAGSTREAM_SCHEMA_REGISTRY__CA_CERTIFICATE or SCHEMA_REGISTRY_URL";
            return vec![Finding::wrong(PART, format!("{error:#}"), advice)];
        }
    };
    if let Err(error) = client.pulse().await {
        let advice = "make the registry reachable, or correct SCHEMA_REGISTRY_URL; until then only schemas in the \
            cache of the state folder can be used";
        return vec![Finding::wrong(PART, error, advice)];
    }
    let mut findings = vec![Finding::well(PART, "answers")];
    for wanted in registrations(config) {
        let found = match config.schema_registry.auto_register {
            true => taken(&client, &wanted).await,
            false => client.id_of(&wanted.subject, &wanted.schema).await.map(drop),
        };
        let advice = "run `flagstream schemas check` for details";
        findings.push(match found {
            Ok(()) => {
                Finding::well(PART, format!("flagstream's schema is valid for subject {}", wanted.subject))
            }
            Err(RegistryError::Refused(why)) => Finding::wrong(PART, why, advice),
            Err(error) => Finding::doubtful(PART, format!("{}: {error}", wanted.subject), advice),
        });
    }
    findings
}

/// Checks that the registry would accept the schema.
async fn taken(client: &Client, wanted: &Registration) -> Result<(), RegistryError> {
    let problems = client.incompatibilities(&wanted.subject, &wanted.schema).await?;
    if problems.is_empty() {
        return Ok(());
    }
    let why = format!(
        "the registry rejects flagstream's schema for subject {}: {}",
        wanted.subject,
        problems.join("; ")
    );
    Err(RegistryError::Refused(why))
}
