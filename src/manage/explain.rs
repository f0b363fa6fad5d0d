//! Explains why a flag is on or off for a context, with the definition in force or with a recorded one.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::flag::{EnvironmentFlags, Explanation, Moment};
use crate::message::request::recorded_context;
use crate::replay::{History, at_version};
use crate::store::record::definition_of;

use super::{ManageError, Manager, compile};

/// Evaluation to explain.
#[derive(Debug, Clone)]
pub struct ExplainRequest {
    pub environment: String,
    pub flag_name: String,
    pub user_id: Option<String>,
    pub session_id: Option<String>,
    /// Context as JSON text.
    pub context: String,
    /// Version of the flag and of the snapshot that were evaluated. `None`: the flag in force.
    pub versions: Option<(u64, u64)>,
    /// Time of the evaluation. `None`: now.
    pub evaluated_at: Option<DateTime<Utc>>,
}

/// Explanation with the definition that it is about.
#[derive(Debug, Serialize)]
pub struct Explained {
    pub flag_name: String,
    pub environment: String,
    pub flag_version: u64,
    /// Whether this version of the flag is in force.
    pub in_force: bool,
    #[serde(flatten)]
    pub explanation: Explanation,
    pub definition: Box<RawValue>,
}

/// Definition of the explained flag, and the flags that it is evaluated with.
struct Found {
    flags: std::sync::Arc<EnvironmentFlags>,
    definition: Box<RawValue>,
    version: u64,
    in_force: bool,
}

impl Manager {
    /// Explains an evaluation. The result is computed again: nothing is written.
    pub async fn explain(&self, request: ExplainRequest) -> Result<Explained, ManageError> {
        let found = self.find_definition(&request).await?;
        let app_name = self.config.unleash.app_name.clone();
        let hostname = gethostname::gethostname().to_string_lossy().into_owned();
        // Compiling every constraint of a large definition takes milliseconds.
        compile::apart(move || {
            let now = request.evaluated_at.unwrap_or_else(Utc::now);
            let now = now.to_rfc3339_opts(SecondsFormat::Micros, true);
            let moment = Moment { now: &now, hostname: &hostname, app_name: &app_name };
            let (user, session) = (request.user_id.as_deref(), request.session_id.as_deref());
            let context = recorded_context(&request.context, user, session)
                .map_err(|error| ManageError::field("context", error.to_string()))?;
            let explained = found.flags.explain(found.definition.get(), &context, &moment);
            let explained = explained.map_err(|error| ManageError::field("definition", error.to_string()))?;
            Ok(Explained {
                explanation: explained.ok_or(ManageError::Unknown)?,
                flag_name: request.flag_name,
                environment: request.environment,
                flag_version: found.version,
                in_force: found.in_force,
                definition: found.definition,
            })
        })
        .await?
    }

    async fn find_definition(&self, request: &ExplainRequest) -> Result<Found, ManageError> {
        if !self.store.is_ready() {
            return Err(ManageError::NotReady);
        }
        let snapshot = self.store.load_full();
        let flags = snapshot.environment(&request.environment);
        let in_force = flags.and_then(|flags| Some((flags, flags.get(&request.flag_name)?)));
        let wanted = request.versions.map(|(version, _)| version);
        if let Some((flags, flag)) = in_force
            && wanted.is_none_or(|version| version == flag.version)
        {
            let definition = definition_of(flag).ok_or(ManageError::Unknown)?;
            let flags = std::sync::Arc::clone(flags);
            return Ok(Found { flags, definition, version: flag.version, in_force: true });
        }
        let Some((version, flags_version)) = request.versions else { return Err(ManageError::Unknown) };
        let database = &self.repository()?.database;
        let (environment, name) = (&request.environment, &request.flag_name);
        let history = History::of_flag(database, environment, name, "").await;
        let history = history.map_err(|error| match error {
            crate::replay::ReplayError::Database(error) => ManageError::from(error),
            error => ManageError::field("flag_version", error.to_string()),
        })?;
        let (flags, definition) =
            at_version(history, environment, name, version, flags_version).ok_or(ManageError::Unknown)?;
        let definition = RawValue::from_string(definition);
        let definition = definition.map_err(|error| ManageError::field("definition", error.to_string()))?;
        Ok(Found { flags, definition, version, in_force: false })
    }
}
