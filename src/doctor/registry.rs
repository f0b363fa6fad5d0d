//! The schema registry: whether it answers, and takes the schemas of what is written in Avro.

use crate::config::Config;
use crate::registry::{Client, registrations};

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
        let advice =
            "known ids go on, as long as the state folder has them; repair it, or SCHEMA_REGISTRY_URL";
        return vec![Finding::wrong(PART, error, advice)];
    }
    let mut findings = vec![Finding::well(PART, "answers")];
    for wanted in registrations(config) {
        let advice = "`flagstream schemas check` tells more";
        findings.extend(match client.incompatibilities(&wanted.subject, &wanted.schema).await {
            Ok(problems) if problems.is_empty() => None,
            Ok(problems) => {
                let found = format!("refuses our schema for {}: {}", wanted.subject, problems.join("; "));
                Some(Finding::wrong(PART, found, advice))
            }
            Err(error) => Some(Finding::doubtful(PART, format!("{}: {error}", wanted.subject), advice)),
        });
    }
    findings
}
