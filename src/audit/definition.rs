//! Flag versions, decoded from the definitions topic.

use std::borrow::Cow;

use serde_json::Value;

use crate::flag::definition::lenient_text;
use crate::message::definition::Definition;
use crate::store::record::{self, Key};

use super::evaluation::Unreadable;
use super::sanitize;

/// One version of a flag: a definition that came into force, or the flag's deletion.
#[derive(Debug, Clone, PartialEq)]
pub struct FlagVersion {
    pub environment: String,
    pub name: String,
    pub version: i64,
    /// Timestamp of the record, in milliseconds since 1970.
    pub in_force_ms: i64,
    /// User who made the change, or the definition's source if no user is recorded.
    pub actor: Option<String>,
    /// Definition of this version. `None`: the flag was deleted.
    pub defined: Option<Defined>,
}

/// Columns of `feature_flags` that come from a definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Defined {
    /// Definition as JSON text.
    pub definition: String,
    pub checksum: String,
    pub source: &'static str,
    pub is_enabled: bool,
    pub description: Option<String>,
    pub r#type: Option<String>,
    pub project: Option<String>,
    pub owner: Option<String>,
    /// Rollout in percent. `None` unless exactly one strategy of the flag has one.
    pub rollout_percentage: Option<String>,
    pub target_users: Vec<String>,
}

impl FlagVersion {
    /// Decodes a record of the definitions topic. `value` is `None` for a tombstone, whose version and actor are in its
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
            let version = version.ok_or_else(|| Unreadable("header version: expected a number".into()))?;
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
    /// Extracts the columns as leniently as evaluation reads a definition (`flag::definition`) and refuses less,
    /// because every definition in force must have its version and its row.
    fn read(definition: &Definition) -> Result<Self, Unreadable> {
        let text = definition.definition.get();
        let feature: Value = serde_json::from_str(text)
            .map_err(|error| Unreadable(format!("definition: not a feature: {error}")))?;
        if !feature.is_object() {
            return Err(Unreadable("definition: not a feature: expected an object".to_owned()));
        }
        let mut definition_text = Cow::Borrowed(text);
        sanitize::json(&mut definition_text);
        let mut description = lenient_text(&feature["description"]).map(Cow::Owned);
        description.as_mut().map(sanitize::text);
        let plain = |text: &Value| lenient_text(text).map(|text| text.replace('\0', ""));
        let strategies = list(&feature["strategies"]);
        Ok(Self {
            definition: definition_text.into_owned(),
            checksum: definition.checksum.replace('\0', ""),
            source: definition.source.as_str(),
            is_enabled: feature["enabled"].as_bool().unwrap_or_default(),
            description: description.map(Cow::into_owned),
            r#type: plain(&feature["type"]),
            project: plain(&feature["project"]),
            owner: plain(&feature["local"]["owner"]),
            rollout_percentage: rollout(strategies),
            target_users: target_users(strategies),
        })
    }
}

/// Items of a list; empty for null and for any other type.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn is_named(strategy: &Value, name: &str) -> bool {
    lenient_text(&strategy["name"]).as_deref() == Some(name)
}

fn rollout(strategies: &[Value]) -> Option<String> {
    let mut percentages = strategies.iter().filter_map(|strategy| {
        let parameters = &strategy["parameters"];
        lenient_text(&parameters["rollout"]).or_else(|| lenient_text(&parameters["percentage"]))
    });
    // A single number cannot describe more than one rollout.
    percentages.next().filter(|_| percentages.next().is_none()).map(|text| text.replace('\0', ""))
}

fn target_users(strategies: &[Value]) -> Vec<String> {
    let listed = strategies.iter().filter(|strategy| is_named(strategy, "userWithId"));
    let listed = listed.flat_map(|strategy| match &strategy["parameters"]["userIds"] {
        // Evaluation joins a list with commas, too.
        Value::Array(users) => users.iter().filter_map(lenient_text).collect(),
        users => lenient_text(users).into_iter().collect::<Vec<_>>(),
    });
    let listed: Vec<String> = listed
        .flat_map(|users| users.split(',').map(|user| user.trim().to_owned()).collect::<Vec<_>>())
        .collect();
    // Strategies whose only condition is that the user's id is in a list.
    let constrained =
        strategies.iter().filter(|strategy| is_named(strategy, "default") && strategy["local"].is_null());
    let constrained = constrained.flat_map(|strategy| match list(&strategy["constraints"]) {
        [only] if only["contextName"] == "userId" && only["operator"] == "IN" && only["inverted"] != true => {
            list(&only["values"])
        }
        _ => &[],
    });
    let users = listed.into_iter().chain(constrained.filter_map(lenient_text));
    users.map(|user| user.replace('\0', "")).filter(|user| !user.is_empty()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
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

    /// Tries every value that evaluation reads as "none" or as a text, at every path of a definition.
    #[test]
    fn whatever_evaluation_accepts_becomes_a_version() {
        let shapes =
            [json!(null), json!(5), json!(1.5), json!(true), json!("x"), json!("5"), json!([]), json!({})];
        let with = |feature: &mut Value, path: &str, shape: &Value| match feature.pointer_mut(path) {
            Some(place) => *place = shape.clone(),
            None => panic!("{path}"),
        };
        let whole = json!({"name": "a/b", "enabled": true, "description": "d", "type": "t", "project": "p",
            "stale": false, "impressionData": false, "variants": [{"name": "v", "weight": 1000, "stickiness": "s",
                "payload": {"type": "string", "value": "x"}, "overrides": [{"contextName": "c", "values": ["v"]}]}],
            "dependencies": [{"feature": "f", "enabled": true, "variants": ["v"]}], "createdAt": "c", "local": null,
            "strategies": [{"name": "userWithId", "parameters": {"userIds": "u"}, "segments": [], "variants": [],
                "sortOrder": 1, "constraints": [{"contextName": "c", "operator": "IN", "values": ["v"],
                    "value": "v", "inverted": false, "caseInsensitive": false}]}]});
        let paths = [
            "/enabled",
            "/description",
            "/type",
            "/project",
            "/stale",
            "/impressionData",
            "/variants",
            "/dependencies",
            "/createdAt",
            "/local",
            "/strategies",
            "/strategies/0",
            "/strategies/0/name",
            "/strategies/0/parameters",
            "/strategies/0/parameters/userIds",
            "/strategies/0/segments",
            "/strategies/0/variants",
            "/strategies/0/sortOrder",
            "/strategies/0/constraints",
            "/strategies/0/constraints/0",
            "/strategies/0/constraints/0/contextName",
            "/strategies/0/constraints/0/operator",
            "/strategies/0/constraints/0/values",
            "/strategies/0/constraints/0/values/0",
            "/strategies/0/constraints/0/value",
            "/strategies/0/constraints/0/inverted",
            "/variants/0",
            "/variants/0/weight",
            "/variants/0/payload",
            "/variants/0/payload/value",
            "/variants/0/stickiness",
            "/variants/0/overrides",
            "/dependencies/0",
            "/dependencies/0/enabled",
        ];
        let mut accepted = 0;
        for path in paths {
            for shape in &shapes {
                let mut feature = whole.clone();
                with(&mut feature, path, shape);
                if crate::flag::definition::read(&feature.to_string()).is_err() {
                    continue;
                }
                accepted += 1;
                let version = read(&feature).unwrap_or_else(|error| panic!("{path} {shape}: {error}"));
                assert_eq!(version.defined.unwrap().is_enabled, feature["enabled"] == true, "{path} {shape}");
            }
        }
        assert!(accepted > 80, "{accepted}");
    }

    #[test]
    fn lenient_shapes_show_what_evaluation_sees() {
        let shown = |member: &str, value: Value| {
            let mut feature = json!({"name": "a/b", "enabled": true, "strategies": [{"name": "default"}]});
            feature[member] = value;
            read(&feature).unwrap().defined.unwrap()
        };
        assert_eq!(shown("description", json!(5)).description.as_deref(), Some("5"));
        assert_eq!(shown("project", json!(7)).project.as_deref(), Some("7"));
        assert_eq!(shown("type", json!(true)).r#type.as_deref(), Some("true"));
        assert_eq!(shown("strategies", json!(null)).target_users, Vec::<String>::new());
        for parameters in [json!([]), json!(null)] {
            let strategies = json!([{"name": "flexibleRollout", "parameters": parameters}]);
            assert_eq!(shown("strategies", strategies).rollout_percentage, None);
        }
        let strategies = json!([{"name": "flexibleRollout", "parameters": {"rollout": 25}}, {"name": 5}]);
        assert_eq!(shown("strategies", strategies).rollout_percentage.as_deref(), Some("25"));
        let strategies = json!([{"name": "userWithId", "parameters": {"userIds": ["u-1", 2]}}]);
        assert_eq!(shown("strategies", strategies).target_users, ["u-1", "2"]);
    }
}
