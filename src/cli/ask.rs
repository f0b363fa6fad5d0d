//! What `evaluate` and `request` ask: one body, in the format of the requests topic, from the command line.

use serde_json::{Map, Value, json};

use crate::message::request::Request;

use super::UsageError;

/// The options that both commands share.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// User (the targeting key)
    #[arg(long)]
    pub user: Option<String>,
    /// Session
    #[arg(long)]
    pub session: Option<String>,
    /// Context, a JSON object
    #[arg(long, value_name = "JSON")]
    pub context: Option<String>,
    /// Default value; its type is the type asked for. With several flags: once for all, or once per flag, in order
    #[arg(long = "default", value_name = "JSON")]
    pub defaults: Vec<String>,
    /// Type asked for, whatever the default: boolean, string, integer, float, number or object
    #[arg(long, value_name = "TYPE")]
    pub value_type: Option<String>,
}

/// The request for `flags`. What is wrong with it is told before anything is sent.
pub fn body(
    flags: &[String],
    options: &Options,
    environment: &str,
) -> Result<Map<String, Value>, UsageError> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    let defaults = defaults(flags.len(), &options.defaults)?;
    if let [flag] = flags {
        put("flag_name", Some(flag.as_str().into()));
        put("default_value", defaults.into_iter().next());
        put("value_type", options.value_type.as_deref().map(Value::from));
    } else {
        put("flag_names", Some(json!(flags)));
        let each = || flags.iter().cloned();
        let defaults: Map<_, _> = each().zip(defaults).collect();
        put("default_values", Some(defaults).filter(|map| !map.is_empty()).map(Value::Object));
        let types = options.value_type.as_deref();
        let types = types.map(|asked| each().map(|flag| (flag, asked.into())).collect());
        put("value_types", types.map(Value::Object));
    }
    put("user_id", options.user.as_deref().map(Value::from));
    put("session_id", options.session.as_deref().map(Value::from));
    let context = options.context.as_deref().map(|text| parse("--context", text));
    put("context", context.transpose()?);
    put("environment", Some(environment.into()));
    let text = Value::Object(body.clone()).to_string();
    Request::decode(text.as_bytes()).map_err(|refusal| UsageError(refusal.text()))?;
    Ok(body)
}

fn defaults(flags: usize, given: &[String]) -> Result<Vec<Value>, UsageError> {
    let parsed: Vec<Value> = given.iter().map(|text| parse("--default", text)).collect::<Result<_, _>>()?;
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

fn parse(option: &str, text: &str) -> Result<Value, UsageError> {
    serde_json::from_str(text).map_err(|error| {
        let hint = if option == "--default" { r#" (a text needs its quotes: '"light"')"# } else { "" };
        UsageError(format!("{option} {text}: not JSON: {error}{hint}"))
    })
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

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
            Value::Object(one),
            json!({"flag_name": "a", "default_value": 5, "user_id": "u", "environment": "e"})
        );
        let many = body(&flags(&["a", "b"]), &options(&["5", "true"]), "e").unwrap();
        assert_eq!(many["default_values"], json!({"a": 5, "b": true}));
        let same = body(&flags(&["a", "b"]), &options(&["5"]), "e").unwrap();
        assert_eq!(same["default_values"], json!({"a": 5, "b": 5}));
        let typed = Options { value_type: Some("float".to_owned()), ..options(&[]) };
        let typed = body(&flags(&["a", "b"]), &typed, "e").unwrap();
        assert_eq!(typed["value_types"], json!({"a": "float", "b": "float"}));
    }

    #[test]
    fn wrong_usage_names_the_option() {
        let message = |flags: &[String], options: &Options| body(flags, options, "e").unwrap_err().0;
        assert!(message(&flags(&["a"]), &options(&["light"])).contains("--default light"));
        assert!(message(&flags(&["a", "b", "c"]), &options(&["1", "2"])).contains("2 for 3 flags"));
        assert!(message(&flags(&[""]), &options(&[])).contains("flag_name"));
        let context = Options { context: Some("[]".to_owned()), ..options(&[]) };
        assert!(message(&flags(&["a"]), &context).contains("context"));
        let typed = Options { value_type: Some("text".to_owned()), ..options(&[]) };
        assert!(message(&flags(&["a"]), &typed).contains("value_type"));
    }
}
