//! Local flags: what they say, and what that is in Unleash's words.
//!
//! There is one engine: [`feature`] writes a local flag as Unleash would, so that it is compiled, evaluated and
//! drawn by lot like all others.

mod read;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use read::{Change, Invalid, check_environment, check_name, created, updated};

pub const MAX_DESCRIPTION_BYTES: usize = 4_096;
pub const MAX_TARGET_USERS: usize = 10_000;
pub const MAX_USER_BYTES: usize = 1_024;
pub const MAX_TAGS: usize = 50;
/// Of an owner or a tag.
pub const MAX_LABEL_BYTES: usize = 255;

/// A local flag, without its name and environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalFlag {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub r#type: FlagType,
    pub is_enabled: bool,
    /// `None`: everybody, or the target users only where there are some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_percentage: Option<u8>,
    /// On whatever the percentage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_users: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// What a flag is for, in Unleash's words.
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

impl FlagType {
    pub const NAMES: &[(&str, Self)] = &[
        ("release", Self::Release),
        ("experiment", Self::Experiment),
        ("operational", Self::Operational),
        ("permission", Self::Permission),
        ("kill-switch", Self::KillSwitch),
    ];
}

/// The feature as Unleash's client API would have it, with the revision that it was made from: each change is a
/// definition of its own, whatever it says.
pub fn feature(name: &str, flag: &LocalFlag, revision: i64) -> Value {
    let mut feature = json!({
        "name": name,
        "type": flag.r#type,
        "enabled": flag.is_enabled,
        "strategies": strategies(name, flag),
        "variants": [],
        "local": {"revision": revision, "owner": flag.owner, "tags": flag.tags},
    });
    if let (Some(description), Some(members)) = (&flag.description, feature.as_object_mut()) {
        members.insert("description".to_owned(), description.as_str().into());
    }
    feature
}

/// On where any of them holds.
fn strategies(name: &str, flag: &LocalFlag) -> Vec<Value> {
    let users = &flag.target_users;
    let constraint = json!({"contextName": "userId", "operator": "IN", "values": users});
    let targeted = json!({"name": "default", "constraints": [constraint], "parameters": {}});
    let targeted = (!users.is_empty()).then_some(targeted);
    let others = match flag.rollout_percentage {
        Some(percentage) => {
            let parameters =
                json!({"rollout": percentage.to_string(), "stickiness": "default", "groupId": name});
            Some(json!({"name": "flexibleRollout", "constraints": [], "parameters": parameters}))
        }
        None if users.is_empty() => Some(json!({"name": "default", "constraints": [], "parameters": {}})),
        None => None,
    };
    targeted.into_iter().chain(others).collect()
}

/// The revision in a definition that [`feature`] has made.
pub fn revision(definition: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Feature {
        local: Local,
    }
    #[derive(Deserialize)]
    struct Local {
        revision: i64,
    }
    serde_json::from_str::<Feature>(definition).ok().map(|feature| feature.local.revision)
}

#[cfg(test)]
mod tests;
