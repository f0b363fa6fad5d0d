//! Enumerations that the fields of a local flag use.

use serde::{Deserialize, Serialize};

/// Purpose of a flag, with Unleash's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlagType {
    #[default]
    Release,
    Experiment,
    Operational,
    Permission,
    KillSwitch,
}

/// Life cycle status of a flag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Draft,
    #[default]
    Active,
    /// Off until the first step of the schedule.
    Scheduled,
    Paused,
    Archived,
    EmergencyOff,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueKind {
    #[default]
    Boolean,
    String,
    Integer,
    Float,
    Object,
}

/// Interpretation of the weights of variants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Weights are parts of their sum, so every context gets a variant.
    #[default]
    Relative,
    /// Weights are percentages. The rest gets the variant `control`, or none.
    Absolute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    All,
    None,
    Percentage,
    UserList,
    UserAttribute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    Equals,
    NotEquals,
    In,
    NotIn,
    Contains,
    StartsWith,
    EndsWith,
    GreaterThan,
    GreaterOrEqual,
    LessThan,
    LessOrEqual,
    Before,
    After,
    SemverEquals,
    SemverGreaterThan,
    SemverGreaterOrEqual,
    SemverLessThan,
    SemverLessOrEqual,
    Exists,
    Matches,
}

impl Operator {
    pub fn is_of_versions(self) -> bool {
        use Operator::{
            SemverEquals, SemverGreaterOrEqual, SemverGreaterThan, SemverLessOrEqual, SemverLessThan,
        };
        let all = [SemverEquals, SemverGreaterThan, SemverGreaterOrEqual, SemverLessThan, SemverLessOrEqual];
        all.contains(&self)
    }
}

impl FlagType {
    pub const NAMES: &[(&str, Self)] = &[
        ("release", Self::Release),
        ("experiment", Self::Experiment),
        ("operational", Self::Operational),
        ("permission", Self::Permission),
        ("kill-switch", Self::KillSwitch),
    ];
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Active => "active",
            Self::Scheduled => "scheduled",
            Self::Paused => "paused",
            Self::Archived => "archived",
            Self::EmergencyOff => "emergency_off",
        }
    }

    /// Statuses that may follow this one.
    pub fn next(self) -> &'static [Self] {
        match self {
            Self::Draft => &[Self::Active, Self::Scheduled, Self::Archived],
            Self::Active => &[Self::Scheduled, Self::Paused, Self::Archived, Self::EmergencyOff],
            Self::Scheduled => &[Self::Draft, Self::Active, Self::Paused, Self::Archived, Self::EmergencyOff],
            Self::Paused => &[Self::Active, Self::Scheduled, Self::Archived, Self::EmergencyOff],
            Self::EmergencyOff => &[Self::Active, Self::Scheduled, Self::Paused, Self::Archived],
            // An archived flag cannot become live again directly.
            Self::Archived => &[Self::Draft, Self::Paused],
        }
    }

    /// Whether a flag with this status can be on.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Active | Self::Scheduled)
    }
}

impl ValueKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Object => "object",
        }
    }
}
