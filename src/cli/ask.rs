//! The request body that `evaluate` and `request` build from the command line, in the format of the requests topic.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::message::request::Request;

use super::UsageError;

/// The options that both commands share.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// User id (the targeting key)
    #[arg(long)]
    pub user: Option<String>,
    /// Session id
    #[arg(long)]
    pub session: Option<String>,
    /// Evaluation context, a JSON object
    #[arg(long, value_name = "JSON")]
    pub context: Option<String>,
    /// Default value; its type is the requested type. With several flags: one for all, or one per flag, in order
    #[arg(long = "default", value_name = "JSON")]
    pub defaults: Vec<String>,
    /// Requested type, regardless of the default's type: boolean, string, integer, float, number or object
    #[arg(long, value_name = "TYPE")]
    pub value_type: Option<String>,
}

impl Options {
    /// Whether neither a default nor a type is given, so that the flag's own type is requested.
    pub fn asks_for_own_type(&self) -> bool {
        self.defaults.is_empty() && self.value_type.is_none()
    }
}

/// The body of a request. Context and defaults are sent exactly as given, because their notation matters for
/// evaluation: the digits of numbers and the order of members.
#[derive(Debug, Clone, Default)]
pub struct Body {
    members: Vec<(&'static str, Box<RawValue>)>,
}

impl Body {
    /// Adds a member.
    pub fn put(&mut self, name: &'static str, value: &impl Serialize) -> Result<(), UsageError> {
        let value = to_raw_value(value).map_err(|error| UsageError(format!("{name}: {error}")))?;
        self.members.push((name, value));
        Ok(())
    }

    /// The whole body as JSON text.
    pub fn text(&self) -> Result<String, UsageError> {
        serde_json::to_string(self).map_err(|error| UsageError(error.to_string()))
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.members.iter().map(|(name, value)| (name, value)))
    }
}

/// Builds the request for `flags`. An error that the service would report is reported before anything is sent.
pub fn body(flags: &[String], options: &Options, environment: &str) -> Result<Body, UsageError> {
    let mut body = Body::default();
    let defaults = defaults(flags.len(), options)?;
    if let [flag] = flags {
        body.put("flag_name", flag)?;
        defaults.first().map(|default| body.put("default_value", default)).transpose()?;
        options.value_type.as_ref().map(|asked| body.put("value_type", asked)).transpose()?;
    } else {
        body.put("flag_names", &flags)?;
        if !defaults.is_empty() {
            let defaults: BTreeMap<_, _> = flags.iter().zip(&defaults).collect();
            body.put("default_values", &defaults)?;
        }
        if let Some(asked) = &options.value_type {
            let types: BTreeMap<_, _> = flags.iter().map(|flag| (flag, asked)).collect();
            body.put("value_types", &types)?;
        }
    }
    options.user.as_ref().map(|user| body.put("user_id", user)).transpose()?;
    options.session.as_ref().map(|session| body.put("session_id", session)).transpose()?;
    if let Some(text) = &options.context {
        body.put("context", &context(text)?)?;
    }
    body.put("environment", &environment)?;
    Request::decode(body.text()?.as_bytes()).map_err(|refusal| UsageError(refusal.text()))?;
    Ok(body)
}

fn defaults(flags: usize, options: &Options) -> Result<Vec<Box<RawValue>>, UsageError> {
    let is_string = options.value_type.as_deref() == Some("string");
    let parsed: Vec<_> =
        options.defaults.iter().map(|text| default(text, is_string)).collect::<Result<_, _>>()?;
    match parsed.as_slice() {
        [] => Ok(parsed),
        [one] => Ok(vec![one.clone(); flags]),
        many if many.len() == flags => Ok(parsed),
        many => Err(UsageError(format!(
            "--default: {} for {flags} flags, expected one, or one per flag",
            many.len()
        ))),
    }
}

/// Parses a default as JSON. If a string is requested, text that is not JSON is the string itself.
fn default(text: &str, is_string: bool) -> Result<Box<RawValue>, UsageError> {
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(_) if is_string => to_raw_value(text).map_err(|error| UsageError(format!("--default: {error}"))),
        Err(_) => Err(UsageError(format!(
            "--default {text} is not JSON; for a string write --default '\"{text}\"' or add --value-type string"
        ))),
    }
}

/// The context exactly as given. An error unless it is a JSON object.
pub fn context(text: &str) -> Result<Box<RawValue>, UsageError> {
    let value: Option<Box<RawValue>> = serde_json::from_str(text).ok();
    value.filter(|value| value.get().starts_with('{')).ok_or_else(|| {
        UsageError(format!("--context: expected a JSON object such as '{{\"country\": \"NL\"}}', got {text}"))
    })
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: Body) -> Value {
        serde_json::from_str(&body.text().unwrap()).unwrap()
    }

    fn options(defaults: &[&str]) -> Options {
        Options {
            user: Some("u".to_owned()),
            defaults: defaults.iter().map(|text| (*text).to_owned()).collect(),
            ..Options::default()
        }
    }

    fn flags(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn one_flag_and_many_flags() {
        let one = body(&flags(&["a"]), &options(&["5"]), "e").unwrap();
        assert_eq!(
            read(one),
            json!({"flag_name": "a", "default_value": 5, "user_id": "u", "environment": "e"})
        );
        let many = read(body(&flags(&["a", "b"]), &options(&["5", "true"]), "e").unwrap());
        assert_eq!(many["default_values"], json!({"a": 5, "b": true}));
        let same = read(body(&flags(&["a", "b"]), &options(&["5"]), "e").unwrap());
        assert_eq!(same["default_values"], json!({"a": 5, "b": 5}));
        let typed = Options { value_type: Some("float".to_owned()), ..options(&[]) };
        let typed = read(body(&flags(&["a", "b"]), &typed, "e").unwrap());
        assert_eq!(typed["value_types"], json!({"a": "float", "b": "float"}));
    }

    #[test]
    fn context_and_defaults_are_sent_as_they_are_written() {
        let context = r#"{"t":12345678901234567890123,"o":{"b":1.0,"a":[1e2]},"plan":"gold","plan":null}"#;
        let default = "12345678901234567890123";
        let with = Options { context: Some(context.to_owned()), ..options(&[default]) };
        let text = body(&flags(&["a"]), &with, "e").unwrap().text().unwrap();
        assert!(text.contains(&format!(r#""context":{context}"#)), "{text}");
        assert!(text.contains(&format!(r#""default_value":{default}"#)), "{text}");
        let request = Request::decode(text.as_bytes()).unwrap();
        assert_eq!(request.context.property("plan"), None);
        assert_eq!(request.context.property("o"), Some(r#"{"b":1.0,"a":[1e2]}"#));
    }

    #[test]
    fn wrong_usage_names_the_option() {
        let message = |flags: &[String], options: &Options| body(flags, options, "e").unwrap_err().0;
        let light = message(&flags(&["a"]), &options(&["light"]));
        assert_eq!(
            light,
            "--default light is not JSON; for a string write --default '\"light\"' or add --value-type string"
        );
        assert!(message(&flags(&["a", "b", "c"]), &options(&["1", "2"])).contains("2 for 3 flags"));
        assert!(message(&flags(&[""]), &options(&[])).contains("flag_name"));
        let context = Options { context: Some("[]".to_owned()), ..options(&[]) };
        assert!(message(&flags(&["a"]), &context).contains("context"));
        let typed = Options { value_type: Some("text".to_owned()), ..options(&[]) };
        assert!(message(&flags(&["a"]), &typed).contains("value_type"));
    }
}
