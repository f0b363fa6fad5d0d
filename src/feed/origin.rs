//! Where flags come from.

use std::borrow::Cow;
use std::time::Duration;

use crate::message::definition::Source;
use crate::message::source_status::SourceName;

use super::file::{FILE_REFRESH, FileOrigin};
use super::follow::Followable;
use super::local::{LOCAL_REFRESH, LocalOrigin};
use super::look::{LookError, Seen};
use super::unleash::UnleashOrigin;

/// In place of an environment's name, for what is not about one of them.
pub const EVERYWHERE: &str = "*";

/// The source of truth for one environment; local flags are one for all.
#[derive(Debug, Clone)]
pub enum Origin {
    Unleash(UnleashOrigin),
    File(FileOrigin),
    Local(LocalOrigin),
}

impl Origin {
    /// `None`: it tells which environments it has flags for.
    pub fn environment(&self) -> Option<&str> {
        match self {
            Self::Unleash(origin) => Some(&origin.environment),
            Self::File(origin) => Some(&origin.environment),
            Self::Local(_) => None,
        }
    }

    /// The environment for metrics and health.
    pub fn label(&self) -> &str {
        self.environment().unwrap_or(EVERYWHERE)
    }

    /// The name of its status record.
    pub fn name(&self) -> SourceName {
        SourceName { source: self.source(), environment: self.label().to_owned() }
    }

    pub fn source(&self) -> Source {
        match self {
            Self::Unleash(_) => Source::Unleash,
            Self::File(_) => Source::File,
            Self::Local(_) => Source::Local,
        }
    }

    /// Who changed a flag, as far as it can be known.
    pub fn actor(&self) -> &'static str {
        self.source().as_str()
    }

    /// Where its flags are changed, in words.
    pub fn place(&self) -> Cow<'_, str> {
        match self {
            Self::Unleash(origin) => format!("Unleash at {}", origin.base()).into(),
            Self::File(origin) => format!("the file {}", origin.path().display()).into(),
            Self::Local(_) => "here".into(),
        }
    }

    /// How often to look; `configured` is for what is remote.
    pub fn refresh_interval(&self, configured: Duration) -> Duration {
        match self {
            Self::Unleash(_) => configured,
            Self::File(_) => FILE_REFRESH,
            Self::Local(_) => LOCAL_REFRESH.min(configured),
        }
    }

    /// How long it is until its answer changes by itself.
    pub(super) fn until_due(&self) -> Option<Duration> {
        match self {
            Self::Local(origin) => origin.until_next_step(),
            Self::Unleash(_) | Self::File(_) => None,
        }
    }

    pub(super) fn followable(&self) -> Followable {
        self.environment().map_or(Followable::Local, |name| Followable::Environment(name.to_owned()))
    }

    /// Looks once. [`Origin::settled`] must follow before the next look.
    pub async fn look(&mut self) -> Result<Seen, LookError> {
        match self {
            Self::Unleash(origin) => origin.look().await,
            Self::File(origin) => origin.look().await,
            Self::Local(origin) => origin.look().await,
        }
    }

    pub fn settled(&mut self, accepted: bool) {
        match self {
            Self::Unleash(origin) => origin.settled(accepted),
            Self::File(origin) => origin.settled(accepted),
            Self::Local(origin) => origin.settled(accepted),
        }
    }
}
