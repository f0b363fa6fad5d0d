//! Where the flags of one environment come from.

use std::time::Duration;

use crate::message::definition::Source;

use super::file::{FILE_REFRESH, FileOrigin};
use super::look::{LookError, Seen};
use super::unleash::UnleashOrigin;

/// The source of truth for one environment.
#[derive(Debug, Clone)]
pub enum Origin {
    Unleash(UnleashOrigin),
    File(FileOrigin),
}

impl Origin {
    pub fn environment(&self) -> &str {
        match self {
            Self::Unleash(origin) => &origin.environment,
            Self::File(origin) => &origin.environment,
        }
    }

    pub fn source(&self) -> Source {
        match self {
            Self::Unleash(_) => Source::Unleash,
            Self::File(_) => Source::File,
        }
    }

    /// Who changed a flag, as far as it can be known.
    pub fn actor(&self) -> &'static str {
        match self {
            Self::Unleash(_) => "unleash",
            Self::File(_) => "file",
        }
    }

    /// How often to look; `configured` is for what is remote.
    pub fn refresh_interval(&self, configured: Duration) -> Duration {
        match self {
            Self::Unleash(_) => configured,
            Self::File(_) => FILE_REFRESH,
        }
    }

    /// Looks once. [`Origin::settled`] must follow before the next look.
    pub async fn look(&mut self) -> Result<Seen, LookError> {
        match self {
            Self::Unleash(origin) => origin.look().await,
            Self::File(origin) => origin.look().await,
        }
    }

    pub fn settled(&mut self, accepted: bool) {
        match self {
            Self::Unleash(origin) => origin.settled(accepted),
            Self::File(origin) => origin.settled(accepted),
        }
    }
}
