//! What the registry has said, on disk: with it a start goes on while the registry is away.
//!
//! ```text
//! {state_dir}/schemas     of one registry: schemas by id, ids of our own schemas by subject
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::store::disk::replace;

use super::texts::Texts;

/// More schemas of strangers are not kept.
const MAX_SCHEMAS_COUNT: usize = 1_000;
/// Larger ones are not kept, nor is a larger file read.
const MAX_SCHEMA_BYTES: usize = 64 << 10;
const MAX_FILE_BYTES: u64 = 2 * (MAX_SCHEMAS_COUNT * MAX_SCHEMA_BYTES) as u64;

/// The file, and what is in it.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    said: Mutex<Said>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Said {
    /// The addresses asked: ids of another registry mean something else.
    registry: Vec<String>,
    schemas: BTreeMap<u32, Texts>,
    own: BTreeMap<String, Own>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Own {
    schema: String,
    id: u32,
}

impl Kept {
    /// What was said by the registry at these addresses; nothing if the file is another's, or cannot be read.
    pub(super) fn open(folder: &Path, mut registry: Vec<String>) -> Self {
        registry.sort_unstable();
        let path = folder.join("schemas");
        let said = match read(&path) {
            Ok(said) if said.registry == registry => said,
            Ok(_) => Said { registry, ..Said::default() },
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "kept schemas cannot be read");
                }
                Said { registry, ..Said::default() }
            }
        };
        Self { path, said: Mutex::new(said) }
    }

    pub(super) fn schema(&self, id: u32) -> Option<Texts> {
        self.with(|said| said.schemas.get(&id).cloned())
    }

    pub(super) fn id_of(&self, subject: &str, schema: &str) -> Option<u32> {
        self.with(|said| said.own.get(subject).filter(|own| own.schema == schema).map(|own| own.id))
    }

    pub(super) fn keep_schema(&self, id: u32, schema: &Texts) {
        self.with(|said| {
            let fits = schema.bytes() <= MAX_SCHEMA_BYTES && said.schemas.len() < MAX_SCHEMAS_COUNT;
            if said.schemas.get(&id).is_none_or(|known| known != schema) && fits {
                said.schemas.insert(id, schema.clone());
                self.save(said);
            }
        });
    }

    pub(super) fn keep_id(&self, subject: &str, schema: &str, id: u32) {
        self.with(|said| {
            let own = Own { schema: schema.to_owned(), id };
            if said.own.get(subject) != Some(&own) {
                said.own.insert(subject.to_owned(), own);
                self.save(said);
            }
        });
    }

    /// Without the file all works but a start while the registry is away.
    fn save(&self, said: &Said) {
        let saved = serde_json::to_vec(said).map_err(io::Error::other);
        if let Err(error) = saved.and_then(|bytes| replace(&self.path, &bytes)) {
            tracing::warn!(path = %self.path.display(), %error, "schemas are not kept");
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Said) -> T) -> T {
        work(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read(path: &Path) -> io::Result<Said> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
