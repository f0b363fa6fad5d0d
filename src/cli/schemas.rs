//! `flagstream schemas`: lists, registers and checks the schemas of the messages.

use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use crate::config::Config;
use crate::message::avro::{Kind, Subject};
use crate::schema_registry::{Client, Registration, RegistryError, registrations_of, written_events};

use super::{Global, Output, UsageError, print};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List each topic's schema and registry subject
    List,
    /// Print a schema
    Show {
        /// Name of its file in schemas/, without .avsc
        name: String,
    },
    /// Register the schemas that are not registered yet
    Register,
    /// List the schemas that the registry would reject, without registering any; exit code 1 if there are any
    Check,
}

/// One subject in the output.
#[derive(Serialize)]
struct Line<'r> {
    topic: &'r str,
    subject: &'r str,
    schemas: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Vec<String>>,
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    if let Command::Show { name } = &command {
        let kind = Kind::ALL.into_iter().find(|kind| kind.file() == name);
        let names = || Kind::ALL.map(Kind::file).join(", ");
        let kind =
            kind.ok_or_else(|| UsageError(format!("{name}: unknown schema; expected one of {}", names())))?;
        print::line(kind.text().trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = global.load_config()?;
    let registry = match &command {
        Command::List => None,
        _ => {
            let client = Client::new(&config.schema_registry).context("SCHEMA_REGISTRY_URL")?;
            Some(client.ok_or_else(|| UsageError("SCHEMA_REGISTRY_URL is not set".to_owned()))?)
        }
    };
    let mut refused = false;
    for (topic, registration) in wanted(&config) {
        let mut line = Line {
            topic: &topic,
            subject: &registration.subject,
            schemas: registration.kinds.iter().map(|(kind, _)| kind.file()).collect(),
            id: None,
            problems: None,
        };
        if let Some(registry) = &registry {
            let problems = match command {
                Command::Register => match registry.register(line.subject, &registration.schema).await {
                    Ok(id) => {
                        line.id = Some(id);
                        Vec::new()
                    }
                    Err(RegistryError::Refused(why)) => vec![why],
                    Err(error) => return Err(error.into()),
                },
                _ => registry.incompatibilities(line.subject, &registration.schema).await?,
            };
            refused |= !problems.is_empty();
            line.problems = Some(problems);
        }
        print::line(&shown(&line, global.output)?)?;
    }
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The subjects of all topics that may contain Avro, whatever their configured format.
fn wanted(config: &Config) -> Vec<(String, Registration)> {
    let topics = &config.topics;
    let mut all = vec![
        (topics.requests.clone(), Subject::REQUESTS),
        (topics.events.clone(), written_events(config)),
        (topics.updates.clone(), Subject::UPDATES),
        (topics.changes.clone(), Subject::HINTS),
        (topics.conversions.clone(), Subject::CONVERSIONS),
    ];
    all.extend(config.reply.allowed_prefixes.iter().map(|prefix| (prefix.clone(), Subject::REPLIES)));
    let mut wanted = Vec::new();
    for (topic, messages) in all {
        for registration in registrations_of(config.formats.subjects, &topic, messages) {
            wanted.push((topic.clone(), registration));
        }
    }
    wanted
}

fn shown(line: &Line<'_>, output: Output) -> anyhow::Result<String> {
    if output == Output::Json {
        return Ok(serde_json::to_string(line)?);
    }
    let state = match (&line.problems, line.id) {
        (_, Some(id)) => format!("  id {id}"),
        (None, None) => String::new(),
        (Some(problems), None) if problems.is_empty() => "  compatible".to_owned(),
        (Some(problems), None) => format!("  REFUSED: {}", problems.join("; ")),
    };
    Ok(format!("{}  {}{state}", line.subject, line.schemas.join(" | ")))
}
