//! Converts the result of a flag to OpenFeature's types.

use std::collections::HashMap;

use open_feature::provider::ResolutionDetails;
use open_feature::{
    EvaluationError, EvaluationErrorCode, EvaluationReason, EvaluationResult, FlagMetadata, StructValue,
    Value as Given,
};
use serde::Deserialize;
use serde_json::Value;

/// The result of one flag, as returned by the service or its evaluation core.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Said {
    pub value: Value,
    pub enabled: bool,
    pub variant: Option<String>,
    pub reason: String,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub flag_version: Option<u64>,
}

/// A type that can be requested.
pub(crate) trait Asked: Sized + Send {
    /// The service's name of the type.
    const VALUE_TYPE: &'static str;
    /// Converts a JSON value; `None` if it has another type.
    fn of(value: Value) -> Option<Self>;
}

impl Said {
    /// The result as the requested type. An error if there is no value of that type.
    pub(crate) fn details<T: Asked>(self) -> EvaluationResult<ResolutionDetails<T>> {
        if let Some(code) = self.error_code {
            return Err(EvaluationError { code: code_of(&code), message: self.error_message });
        }
        if self.value.is_null() {
            let message = Some("the flag has no value for this context: the default counts".to_owned());
            return Err(EvaluationError { code: EvaluationErrorCode::General(self.reason), message });
        }
        let Some(value) = T::of(self.value) else {
            let message = format!("asked for {}, got what OpenFeature has no such value for", T::VALUE_TYPE);
            return Err(EvaluationError { code: EvaluationErrorCode::TypeMismatch, message: Some(message) });
        };
        let mut metadata = FlagMetadata::default().with_value("enabled", self.enabled);
        if let Some(version) = self.flag_version.and_then(|version| i64::try_from(version).ok()) {
            metadata.add_value("version", version);
        }
        Ok(ResolutionDetails {
            value,
            variant: self.variant,
            reason: Some(reason_of(self.reason)),
            flag_metadata: Some(metadata),
        })
    }
}

/// An error that has no specific code in OpenFeature.
pub(crate) fn general(message: String) -> EvaluationError {
    EvaluationError { code: code_of("GENERAL"), message: Some(message) }
}

fn code_of(code: &str) -> EvaluationErrorCode {
    match code {
        "PROVIDER_NOT_READY" => EvaluationErrorCode::ProviderNotReady,
        "FLAG_NOT_FOUND" => EvaluationErrorCode::FlagNotFound,
        "PARSE_ERROR" => EvaluationErrorCode::ParseError,
        "TYPE_MISMATCH" => EvaluationErrorCode::TypeMismatch,
        "TARGETING_KEY_MISSING" => EvaluationErrorCode::TargetingKeyMissing,
        "INVALID_CONTEXT" => EvaluationErrorCode::InvalidContext,
        other => EvaluationErrorCode::General(other.to_owned()),
    }
}

fn reason_of(reason: String) -> EvaluationReason {
    match reason.as_str() {
        "STATIC" => EvaluationReason::Static,
        "DEFAULT" => EvaluationReason::Default,
        "TARGETING_MATCH" => EvaluationReason::TargetingMatch,
        "SPLIT" => EvaluationReason::Split,
        "CACHED" => EvaluationReason::Cached,
        "DISABLED" => EvaluationReason::Disabled,
        "ERROR" => EvaluationReason::Error,
        _ => EvaluationReason::Other(reason),
    }
}

impl Asked for bool {
    const VALUE_TYPE: &'static str = "boolean";

    fn of(value: Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Asked for i64 {
    const VALUE_TYPE: &'static str = "integer";

    fn of(value: Value) -> Option<Self> {
        value.as_i64()
    }
}

impl Asked for f64 {
    const VALUE_TYPE: &'static str = "float";

    fn of(value: Value) -> Option<Self> {
        value.as_f64()
    }
}

impl Asked for String {
    const VALUE_TYPE: &'static str = "string";

    fn of(value: Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

impl Asked for StructValue {
    const VALUE_TYPE: &'static str = "object";

    fn of(value: Value) -> Option<Self> {
        match value {
            Value::Object(members) => structure(members),
            _ => None,
        }
    }
}

/// Converts a JSON object. OpenFeature for Rust has no null, so members that are null are left out.
fn structure(members: serde_json::Map<String, Value>) -> Option<StructValue> {
    let members = members.into_iter().filter(|(_, value)| !value.is_null());
    let fields: Option<HashMap<_, _>> = members.map(|(name, value)| Some((name, given(value)?))).collect();
    fields.map(|fields| StructValue { fields })
}

fn given(value: Value) -> Option<Given> {
    match value {
        // A null in a list cannot be left out, because that would shift the following items.
        Value::Null => None,
        Value::Bool(value) => Some(Given::Bool(value)),
        Value::Number(number) => {
            number.as_i64().map(Given::Int).or_else(|| number.as_f64().map(Given::Float))
        }
        Value::String(text) => Some(Given::String(text)),
        Value::Array(values) => values.into_iter().map(given).collect::<Option<_>>().map(Given::Array),
        Value::Object(members) => structure(members).map(Given::Struct),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(members: Value) -> Said {
        let mut said = json!({"value": true, "enabled": true, "variant": null, "reason": "TARGETING_MATCH",
            "error_code": null, "error_message": null, "flag_version": 7});
        said.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        serde_json::from_value(said).unwrap()
    }

    fn code<T: Asked + std::fmt::Debug>(members: Value) -> String {
        said(members).details::<T>().unwrap_err().code.to_string()
    }

    #[test]
    fn a_value_comes_with_variant_reason_and_metadata() {
        let details = said(json!({"value": "dark", "variant": "v"})).details::<String>().unwrap();
        assert_eq!((details.value.as_str(), details.variant.as_deref()), ("dark", Some("v")));
        assert_eq!(details.reason, Some(EvaluationReason::TargetingMatch));
        let metadata = FlagMetadata::default().with_value("enabled", true).with_value("version", 7_i64);
        assert_eq!(details.flag_metadata, Some(metadata));
        let other = said(json!({"reason": "NEW"})).details::<bool>().unwrap().reason;
        assert_eq!(other, Some(EvaluationReason::Other("NEW".into())));
    }

    #[test]
    fn every_type_takes_its_values_and_no_others() {
        assert_eq!(said(json!({"value": 5})).details::<i64>().unwrap().value, 5);
        assert_eq!(said(json!({"value": 5})).details::<f64>().unwrap().value, 5.0);
        for value in [json!(5.5), json!(u64::MAX), json!("5")] {
            assert_eq!(code::<i64>(json!({"value": value})), "TYPE_MISMATCH");
        }
        assert_eq!(code::<bool>(json!({"value": "true"})), "TYPE_MISMATCH");
        assert_eq!(code::<String>(json!({"value": 1})), "TYPE_MISMATCH");
        assert_eq!(code::<StructValue>(json!({"value": [1]})), "TYPE_MISMATCH");
        assert_eq!(code::<StructValue>(json!({"value": {"a": [null]}})), "TYPE_MISMATCH");

        let value = json!({"a": [1, 2.5, "x", {"b": true}], "none": null, "large": u64::MAX});
        let structure = said(json!({"value": value})).details::<StructValue>().unwrap().value;
        let inner = Given::Struct(StructValue::default().with_field("b", true));
        let list = Given::Array(vec![1.into(), 2.5.into(), "x".into(), inner]);
        let expected = StructValue::default().with_field("a", list).with_field("large", u64::MAX as f64);
        assert_eq!(structure, expected);
    }

    #[test]
    fn without_a_value_the_error_says_why() {
        for code_text in [
            "FLAG_NOT_FOUND",
            "PROVIDER_NOT_READY",
            "TYPE_MISMATCH",
            "PARSE_ERROR",
            "TARGETING_KEY_MISSING",
            "INVALID_CONTEXT",
            "GENERAL",
            "NEW",
        ] {
            let members = json!({"error_code": code_text, "reason": "ERROR", "error_message": "why"});
            assert_eq!(code::<bool>(members.clone()), code_text);
            assert_eq!(said(members).details::<bool>().unwrap_err().message.as_deref(), Some("why"));
        }
        assert_eq!(code::<String>(json!({"value": null, "reason": "DEFAULT"})), "DEFAULT");
        assert_eq!(code::<String>(json!({"value": null, "reason": "DISABLED"})), "DISABLED");
    }
}
