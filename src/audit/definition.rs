//! A version of a flag, read from the definitions topic.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::message::definition::Definition;
use crate::store::record::{self, Key};

use super::evaluation::Unreadable;
use super::storable;

/// A definition that came into force, or the flag's end.
#[derive(Debug, Clone, PartialEq)]
pub struct FlagVersion {
    pub environment: String,
    pub name: String,
    pub version: i64,
    /// The record's time: milliseconds since 1970.
    pub in_force_ms: i64,
    /// Who made it so.
    pub actor: Option<String>,
    /// `None`: the flag was deleted.
    pub defined: Option<Defined>,
}

/// What the flag cache shows of a definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Defined {
    /// JSON text.
    pub definition: String,
    pub checksum: String,
    pub source: &'static str,
    pub is_enabled: bool,
    pub description: Option<String>,
    pub r#type: Option<String>,
    pub project: Option<String>,
    pub owner: Option<String>,
    /// Percent, where one strategy of the flag rolls it out by one.
    pub rollout_percentage: Option<String>,
    pub target_users: Vec<String>,
}

/// What is read of a feature in Unleash's format.
#[derive(Debug, Deserialize)]
struct Feature {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    description: Option<String>,
    #[serde(default, rename = "type")]
    kind: Value,
    #[serde(default)]
    project: Value,
    /// What a local flag has beside a feature.
    #[serde(default)]
    local: Value,
    #[serde(default)]
    strategies: Vec<Strategy>,
}

#[derive(Debug, Deserialize)]
struct Strategy {
    #[serde(default)]
    name: String,
    #[serde(default)]
    constraints: Value,
    #[serde(default)]
    parameters: Map<String, Value>,
    /// What only local flags say: more conditions, or that these are off.
    #[serde(default)]
    local: Value,
}

impl FlagVersion {
    /// Reads a record of the definitions topic; `value` is `None` for a tombstone, whose version and actor are in its
    /// headers.
    pub fn read(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        header_version: Option<&str>,
        header_actor: Option<&str>,
        in_force_ms: i64,
    ) -> Result<Self, Unreadable> {
        let unreadable = |refusal: record::Refusal| Unreadable(refusal.to_string());
        let key = Key::parse(key).map_err(unreadable)?;
        let (environment, name) = (key.environment.to_owned(), key.flag.to_owned());
        let Some(value) = value else {
            let version = header_version.and_then(|text| text.parse().ok());
            let version =
                version.ok_or_else(|| Unreadable("version: expected a number in the header".into()))?;
            let actor = header_actor.map(|actor| actor.replace('\0', ""));
            return Ok(Self { environment, name, version, in_force_ms, actor, defined: None });
        };
        let definition = record::decode(&key, value).map_err(unreadable)?;
        let version = i64::try_from(definition.version)
            .map_err(|_| Unreadable(format!("version: {} is too large", definition.version)))?;
        let defined = Defined::read(&definition)?;
        let actor = definition.actor.map(|actor| actor.replace('\0', ""));
        let actor = actor.or_else(|| Some(defined.source.to_owned()));
        Ok(Self { environment, name, version, in_force_ms, actor, defined: Some(defined) })
    }
}

impl Defined {
    fn read(definition: &Definition) -> Result<Self, Unreadable> {
        let text = definition.definition.get();
        let feature: Feature = serde_json::from_str(text)
            .map_err(|error| Unreadable(format!("definition: not a feature: {error}")))?;
        let mut definition_text = Cow::Borrowed(text);
        storable::json(&mut definition_text);
        let mut description = feature.description.map(Cow::Owned);
        description.as_mut().map(storable::text);
        let plain = |text: &Value| text.as_str().map(|text| text.replace('\0', ""));
        Ok(Self {
            definition: definition_text.into_owned(),
            checksum: definition.checksum.replace('\0', ""),
            source: definition.source.as_str(),
            is_enabled: feature.enabled,
            description: description.map(Cow::into_owned),
            r#type: plain(&feature.kind),
            project: plain(&feature.project),
            owner: plain(&feature.local["owner"]),
            rollout_percentage: rollout(&feature.strategies),
            target_users: target_users(&feature.strategies),
        })
    }
}

fn rollout(strategies: &[Strategy]) -> Option<String> {
    let mut percentages = strategies.iter().filter_map(|strategy| {
        let parameter = strategy.parameters.get("rollout").or(strategy.parameters.get("percentage"))?;
        parameter
            .as_str()
            .map(str::to_owned)
            .or_else(|| parameter.as_u64().map(|percent| percent.to_string()))
    });
    // With more than one there is no such number.
    percentages.next().filter(|_| percentages.next().is_none()).map(|text| text.replace('\0', ""))
}

fn target_users(strategies: &[Strategy]) -> Vec<String> {
    let listed = strategies.iter().filter(|strategy| strategy.name == "userWithId");
    let listed = listed.filter_map(|strategy| strategy.parameters.get("userIds")?.as_str());
    let listed = listed.flat_map(|users| users.split(',')).map(str::trim);
    // On for these users, and nothing else is asked.
    let constrained =
        strategies.iter().filter(|strategy| strategy.name == "default" && strategy.local.is_null());
    let constrained = constrained.filter_map(|strategy| match strategy.constraints.as_array()?.as_slice() {
        [only] if only["contextName"] == "userId" && only["operator"] == "IN" && only["inverted"] != true => {
            only["values"].as_array()
        }
        _ => None,
    });
    let users = listed.chain(constrained.flatten().filter_map(Value::as_str));
    let users = users.map(|user| user.replace('\0', ""));
    users.filter(|user| !user.is_empty()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(feature: &Value) -> Result<FlagVersion, Unreadable> {
        let body = json!({"environment": "production", "flag_name": "a/b", "source": "unleash", "version": 7,
            "checksum": "c", "definition": feature});
        FlagVersion::read(Some(b"production/a/b"), Some(body.to_string().as_bytes()), None, None, 5)
    }

    #[test]
    fn a_definition_tells_what_the_cache_shows() {
        let feature = json!({"name": "a/b", "enabled": true, "description": "x\u{0}y", "strategies": [
            {"name": "userWithId", "parameters": {"userIds": "u-1, u-2,"}},
            {"name": "default", "constraints": [{"contextName": "userId", "operator": "IN", "values": ["u-3"]}]},
            {"name": "default", "local": {"off": true},
                "constraints": [{"contextName": "userId", "operator": "IN", "values": ["u-4"]}]},
            {"name": "flexibleRollout", "parameters": {"rollout": "25", "groupId": "g"}}]});
        let version = read(&feature).unwrap();
        assert_eq!((version.name.as_str(), version.version, version.in_force_ms), ("a/b", 7, 5));
        let defined = version.defined.unwrap();
        assert_eq!(defined.rollout_percentage.as_deref(), Some("25"));
        assert_eq!(defined.target_users, ["u-1", "u-2", "u-3"]);
        assert_eq!(defined.description.as_deref(), Some("x\u{FFFD}y"));
        assert!(defined.is_enabled);
        assert!(defined.definition.contains(r"x\ufffdy"), "{}", defined.definition);
    }

    #[test]
    fn a_tombstone_is_a_version_too() {
        let version = FlagVersion::read(Some(b"production/a"), None, Some("9"), Some("ann"), 5).unwrap();
        assert_eq!((version.version, version.defined, version.actor.as_deref()), (9, None, Some("ann")));
        assert!(FlagVersion::read(Some(b"production/a"), None, None, None, 5).is_err());
        assert!(FlagVersion::read(Some(b"nonsense"), None, Some("9"), None, 5).is_err());
    }
}
