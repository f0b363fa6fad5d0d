//! Sources of flags.

use std::borrow::Cow;
use std::time::Duration;

use chrono::TimeDelta;

use crate::message::definition::Source;
use crate::message::source_status::SourceName;

use super::fetch::{FetchError, FetchResult};
use super::file::{FILE_REFRESH, FileSource};
use super::follow::Followable;
use super::local::{LOCAL_REFRESH, LocalSource};
use super::unleash::UnleashSource;

/// Stands for all environments in place of an environment's name.
pub const EVERYWHERE: &str = "*";

/// Source of flags for one environment, or of the local flags for all environments.
#[derive(Debug, Clone)]
pub enum FlagSource {
    Unleash(UnleashSource),
    File(FileSource),
    Local(LocalSource),
}

impl FlagSource {
    /// Environment of the source; `None` for local flags, which provide their environments themselves.
    pub fn environment(&self) -> Option<&str> {
        match self {
            Self::Unleash(flag_source) => Some(&flag_source.environment),
            Self::File(flag_source) => Some(&flag_source.environment),
            Self::Local(_) => None,
        }
    }

    /// Name of the environment for metrics and health.
    pub fn label(&self) -> &str {
        self.environment().unwrap_or(EVERYWHERE)
    }

    /// Name of the source's status record.
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

    /// Actor for changes without a known author.
    pub fn actor(&self) -> &'static str {
        self.source().as_str()
    }

    /// Description of the location where the flags are changed.
    pub fn place(&self) -> Cow<'_, str> {
        match self {
            Self::Unleash(flag_source) => format!("Unleash at {}", flag_source.base()).into(),
            Self::File(flag_source) => format!("the file {}", flag_source.path().display()).into(),
            Self::Local(_) => "here".into(),
        }
    }

    /// How far the source's clock was ahead of this machine's at the last poll, if the source shows its clock.
    pub(super) fn clock_ahead(&self) -> Option<TimeDelta> {
        match self {
            Self::Unleash(flag_source) => flag_source.clock_ahead,
            Self::File(_) | Self::Local(_) => None,
        }
    }

    /// Poll interval; `configured` applies to remote sources.
    pub fn refresh_interval(&self, configured: Duration) -> Duration {
        match self {
            Self::Unleash(_) => configured,
            Self::File(_) => FILE_REFRESH,
            Self::Local(_) => LOCAL_REFRESH.min(configured),
        }
    }

    /// Time until the source's response changes without a change of its data; `None` if it does not.
    pub(super) fn until_due(&self) -> Option<Duration> {
        match self {
            Self::Local(flag_source) => flag_source.until_next_step(),
            Self::Unleash(_) | Self::File(_) => None,
        }
    }

    pub(super) fn followable(&self) -> Followable {
        self.environment().map_or(Followable::Local, |name| Followable::Environment(name.to_owned()))
    }

    /// Polls the source once. [`FlagSource::settled`] must be called before the next poll.
    pub async fn look(&mut self) -> Result<FetchResult, FetchError> {
        match self {
            Self::Unleash(flag_source) => flag_source.look().await,
            Self::File(flag_source) => flag_source.look().await,
            Self::Local(flag_source) => flag_source.look().await,
        }
    }

    pub fn settled(&mut self, accepted: bool) {
        match self {
            Self::Unleash(flag_source) => flag_source.settled(accepted),
            Self::File(flag_source) => flag_source.settled(accepted),
            Self::Local(flag_source) => flag_source.settled(accepted),
        }
    }
}
