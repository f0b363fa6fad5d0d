//! A schema together with the schemas that it references.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::client::{Client, Reference, Registered, RegistryError};

/// Maximum number of directly and indirectly referenced schemas.
const MAX_REFERENCES_COUNT: usize = 100;
/// Maximum total size of the schemas, in bytes.
const MAX_BYTES: usize = 4 << 20;

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Texts {
    pub schema: String,
    /// The referenced schemas. Each one follows those that it references itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
}

/// A step in collecting a schema's references.
enum Task {
    Fetch(Reference),
    /// A schema whose references have all been added.
    Endpoint(String),
}

impl Texts {
    pub fn alone(schema: &str) -> Self {
        Self { schema: schema.to_owned(), others: Vec::new() }
    }

    pub fn bytes(&self) -> usize {
        self.schema.len() + self.others.iter().map(String::len).sum::<usize>()
    }

    /// Fetches all schemas that this schema references. The inner error is the reason why it is unusable.
    pub async fn gather(
        client: &Client,
        id: u32,
        found: Registered,
    ) -> Result<Result<Self, Arc<str>>, RegistryError> {
        if !found.is_avro() {
            return Ok(Err(format!("schema {id} is of type {}, not AVRO", found.schema_type).into()));
        }
        let mut texts = Self::alone(&found.schema);
        let mut tasks: Vec<_> = fetches(found.references).collect();
        let mut seen = HashSet::new();
        while let Some(task) = tasks.pop() {
            let reference = match task {
                Task::Endpoint(text) => {
                    texts.others.push(text);
                    continue;
                }
                Task::Fetch(reference) => reference,
            };
            if !seen.insert(reference.clone()) {
                continue;
            }
            let refers = || {
                format!("schema {id} references subject {} version {}", reference.subject, reference.version)
            };
            match client.referred(&reference).await? {
                None => return Ok(Err(format!("{}, which the registry does not have", refers()).into())),
                Some(other) if !other.is_avro() => {
                    return Ok(Err(format!(
                        "{}, which is of type {} and not AVRO",
                        refers(),
                        other.schema_type
                    )
                    .into()));
                }
                Some(other) => {
                    tasks.push(Task::Endpoint(other.schema));
                    tasks.extend(fetches(other.references));
                }
            }
            if seen.len() > MAX_REFERENCES_COUNT || texts.bytes() > MAX_BYTES {
                let limits = format!("{MAX_REFERENCES_COUNT} other schemas, or {MAX_BYTES} bytes of schemas");
                return Ok(Err(format!("schema {id} references more than {limits}").into()));
            }
        }
        Ok(Ok(texts))
    }
}

/// Tasks for the references, in reverse, so that the first one is on top of the stack.
fn fetches(references: Vec<Reference>) -> impl Iterator<Item = Task> {
    references.into_iter().rev().map(Task::Fetch)
}
