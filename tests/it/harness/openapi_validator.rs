//! The API's document, and whether answers are as it says.

use serde_json::Value;

use super::http::{Answer, call};
use super::strict_schema::differences;

/// The document that a service serves.
#[derive(Debug, Clone)]
pub struct OpenApiValidator(Value);

impl OpenApiValidator {
    pub fn of(url: &str) -> Self {
        Self(call("GET", &format!("{url}/openapi.json"), &[], b"").json())
    }

    /// Fails unless the document has this answer: its status, its type, and every member of its body. `path` as the document has it.
    pub fn check(&self, method: &str, path: &str, answer: &Answer) {
        let responses = &self.0["paths"][path][method.to_lowercase()]["responses"];
        let response = &responses[answer.status.to_string()];
        assert!(response.is_object(), "{method} {path} {}: not in the document: {answer:?}", answer.status);
        let Some(content) = response["content"].as_object() else {
            assert_eq!(
                answer.body, "",
                "{method} {path} {}: a body that is not in the document",
                answer.status
            );
            return;
        };
        let media = answer.header("content-type").split(';').next().unwrap();
        assert!(content.contains_key(media), "{method} {path}: {media}: {answer:?}");
        let body = answer.json();
        let errors = differences(&self.0, (method, path), answer.status, media, &body);
        assert!(errors.is_empty(), "{method} {path} {}: {errors:?}\n{body:#}", answer.status);
    }
}
