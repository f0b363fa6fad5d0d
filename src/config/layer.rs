//! One source of values for the `config` crate, which merges the sources.

use std::collections::BTreeMap;

use config::{ConfigError, Map, Source, ValueKind};

use super::settings::{Fallback, Mask, SETTINGS};
use super::values::{Origin, Raw, Value};

/// The section with librdkafka properties, whose names contain dots.
pub(super) const CLIENT: &str = "kafka.client";

/// The values of one source, by path. Each carries its origin as text.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    values: Map<String, config::Value>,
    client: Map<String, config::Value>,
}

impl Layer {
    /// The defaults of all settings that have one.
    pub(super) fn defaults(dev: bool) -> Self {
        let mut layer = Self::default();
        for setting in SETTINGS.iter().filter(|setting| setting.mask != Mask::Group) {
            let text = match (setting.dev_default.filter(|_| dev), setting.default) {
                (Some(text), _) | (None, Fallback::Text(text)) => text,
                (None, Fallback::Unset(_) | Fallback::Computed(_)) => continue,
            };
            layer.put(setting.path, &Value { raw: Raw::One(text.to_owned()), origin: Origin::Default });
        }
        layer
    }

    pub(super) fn put(&mut self, path: &str, value: &Value) {
        self.values.insert(path.to_owned(), merged(value));
    }

    pub(super) fn put_client(&mut self, property: &str, value: &Value) {
        self.client.insert(property.to_owned(), merged(value));
    }

    pub(super) fn clear_client(&mut self) {
        self.client.clear();
    }

    /// The value at `path` of merged layers.
    pub(super) fn value(merged: &config::Value, path: &str) -> Option<Value> {
        read(at(merged, path)?)
    }

    /// The values of the table at `path` of merged layers, by name.
    pub(super) fn values(merged: &config::Value, path: &str) -> BTreeMap<String, Value> {
        let Some(ValueKind::Table(table)) = at(merged, path).map(|value| &value.kind) else {
            return BTreeMap::new();
        };
        table.iter().filter_map(|(name, value)| Some((name.clone(), read(value)?))).collect()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, config::Value>, ConfigError> {
        let mut values = self.values.clone();
        // As a table, because the names of the properties are no paths.
        values.insert(CLIENT.to_owned(), self.client.clone().into());
        Ok(values)
    }
}

fn at<'v>(merged: &'v config::Value, path: &str) -> Option<&'v config::Value> {
    path.split('.').try_fold(merged, |value, key| match &value.kind {
        ValueKind::Table(table) => table.get(key),
        _ => None,
    })
}

fn merged(value: &Value) -> config::Value {
    let origin = value.origin.to_string();
    let kind = match &value.raw {
        Raw::One(text) => ValueKind::String(text.clone()),
        Raw::Many(items) => {
            ValueKind::Array(items.iter().map(|item| config::Value::new(None, item.as_str())).collect())
        }
    };
    config::Value::new(Some(&origin), kind)
}

fn read(value: &config::Value) -> Option<Value> {
    let text = |value: &config::Value| match &value.kind {
        ValueKind::String(text) => Some(text.clone()),
        _ => None,
    };
    let raw = match &value.kind {
        ValueKind::Array(items) => Raw::Many(items.iter().map(text).collect::<Option<_>>()?),
        _ => Raw::One(text(value)?),
    };
    Some(Value { raw, origin: value.origin().map_or(Origin::Default, Origin::of) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, origin: Origin) -> Value {
        Value { raw: Raw::One(text.to_owned()), origin }
    }

    #[test]
    fn origins_survive_a_merge_and_properties_keep_their_names() {
        let file = Origin::File { file: "a:b.toml".to_owned(), line: 7 };
        let variable = Origin::Environment("FLAGSTREAM_X".to_owned());
        let (mut first, mut second) = (Layer::default(), Layer::default());
        first.put("kafka.group_id", &value("one", Origin::Default));
        first.put_client("ssl.ca.location", &value("/a", file.clone()));
        first.put_client("ssl.ca.pem", &value("x", file.clone()));
        second.put("kafka.group_id", &value("two", variable.clone()));
        second.put_client("ssl.ca.location", &value("/b", variable.clone()));
        let list = Value { raw: Raw::Many(vec!["a".into(), "b".into()]), origin: file.clone() };
        second.put("reply.allowed_prefixes", &list);

        let builder = config::Config::builder().add_source(first).add_source(second);
        let merged = builder.build().map(|built| built.cache).unwrap_or_default();
        let found = Layer::value(&merged, "kafka.group_id").map(|value| (value.raw, value.origin));
        assert_eq!(found, Some((Raw::One("two".into()), variable.clone())));
        let found = Layer::value(&merged, "reply.allowed_prefixes").map(|value| (value.raw, value.origin));
        assert_eq!(found, Some((list.raw, file.clone())));
        let client: Vec<_> = Layer::values(&merged, CLIENT)
            .into_iter()
            .map(|(property, value)| (property, value.raw.text(), value.origin))
            .collect();
        let expected = [("ssl.ca.location", "/b", variable), ("ssl.ca.pem", "x", file)]
            .map(|(name, text, origin)| (name.to_owned(), text.to_owned(), origin));
        assert_eq!(client, expected);
        assert!(
            Layer::value(&merged, "kafka").is_none() && Layer::value(&merged, "kafka.group_id.x").is_none()
        );
    }
}
