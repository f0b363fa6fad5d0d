//! A disk cache of the registry's responses, which allows a start while the registry is unreachable.
//!
//! ```text
//! {state_dir}/schemas     responses of one registry: schemas by id, ids of our own schemas by subject
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::log_limit::limited;
use crate::private_files::replace;

use super::texts::Texts;

/// Maximum number of cached schemas. Producers of other systems may use any number.
const MAX_SCHEMAS_COUNT: usize = 1_000;
/// Maximum size of a cached schema, in bytes. Larger ones are not cached.
const MAX_SCHEMA_BYTES: usize = 64 << 10;
/// Largest cache file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 2 * (MAX_SCHEMAS_COUNT * MAX_SCHEMA_BYTES) as u64;

/// The cache file and its content.
#[derive(Debug)]
pub(super) struct DiskCache {
    path: PathBuf,
    cached: Mutex<CachedSchemas>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct CachedSchemas {
    /// The addresses of the registry, sorted. Ids of another registry have other meanings.
    registry: Vec<String>,
    schemas: BTreeMap<u32, Texts>,
    own: BTreeMap<String, Own>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Own {
    schema: String,
    id: u32,
}

impl DiskCache {
    /// Loads the cached responses of the registry at these addresses. The cache is empty if the file belongs to another
    /// registry or cannot be read.
    pub(super) fn open(folder: &Path, mut registry: Vec<String>) -> Self {
        registry.sort_unstable();
        let path = folder.join("schemas");
        let cached = match read(&path) {
            Ok(cached) if cached.registry == registry => cached,
            Ok(_) => CachedSchemas { registry, ..CachedSchemas::default() },
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    // Not limited: once at the start.
                    tracing::warn!(path = %path.display(), %error, "the schema cache on disk cannot be read; it \
                        starts empty");
                }
                CachedSchemas { registry, ..CachedSchemas::default() }
            }
        };
        Self { path, cached: Mutex::new(cached) }
    }

    pub(super) fn schema(&self, id: u32) -> Option<Texts> {
        self.with(|cached| cached.schemas.get(&id).cloned())
    }

    pub(super) fn id_of(&self, subject: &str, schema: &str) -> Option<u32> {
        self.with(|cached| cached.own.get(subject).filter(|own| own.schema == schema).map(|own| own.id))
    }

    pub(super) fn keep_schema(&self, id: u32, schema: &Texts) {
        self.with(|cached| {
            let fits = schema.bytes() <= MAX_SCHEMA_BYTES && cached.schemas.len() < MAX_SCHEMAS_COUNT;
            if cached.schemas.get(&id).is_none_or(|known| known != schema) && fits {
                cached.schemas.insert(id, schema.clone());
                self.save(cached);
            }
        });
    }

    pub(super) fn keep_id(&self, subject: &str, schema: &str, id: u32) {
        self.with(|cached| {
            let own = Own { schema: schema.to_owned(), id };
            if cached.own.get(subject) != Some(&own) {
                cached.own.insert(subject.to_owned(), own);
                self.save(cached);
            }
        });
    }

    /// Writes the file. A failure is only logged, because the file is needed only for a start while the registry is
    /// unreachable.
    fn save(&self, cached: &CachedSchemas) {
        let saved = serde_json::to_vec(cached).map_err(io::Error::other);
        if let Err(error) = saved.and_then(|bytes| replace(&self.path, &bytes)) {
            limited!(
                warn,
                path = %self.path.display(),
                %error,
                "the schema cache on disk cannot be written",
            );
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut CachedSchemas) -> T) -> T {
        work(&mut self.cached.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read(path: &Path) -> io::Result<CachedSchemas> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
