//! Snapshot on disk, from which an instance starts when Kafka is unreachable.
//!
//! ```text
//! flagstream-snapshot 1 <SHA-256 of all that follows, hex>\n
//! {"saved_at":…,"topic":…,"offset":…,"count":…,"removed":{…},"definitions":[…],"switches":[…],"sources":[…]}
//! ```
//!
//! A file is either complete or absent: it is written under a temporary name, synced, and renamed. A file
//! that is incomplete or of another format is renamed to `snapshot.damaged` and not used, not even in part.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::message::source_status::SourceStatus;
use crate::private_files;

use super::definition_table::Saved;

/// Maximum size of a snapshot file in bytes; a larger file is treated as damaged.
pub const MAX_FILE_BYTES: u64 = 1 << 30;
const MAGIC: &str = "flagstream-snapshot";
const FORMAT_VERSION: &str = "1";

/// Location of the snapshot in an instance's state directory.
#[derive(Debug, Clone)]
pub struct Disk {
    path: PathBuf,
}

/// Snapshot with its metadata.
#[derive(Debug, Clone)]
pub struct DiskSnapshot {
    pub saved_at: DateTime<Utc>,
    /// Definitions topic that the snapshot was read from.
    pub topic: String,
    /// Offset after the last record that the snapshot contains.
    pub offset: i64,
    pub saved: Saved,
    pub sources: Vec<SourceStatus>,
}

/// Reason why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("damaged: {0}")]
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct Body<'b> {
    saved_at: DateTime<Utc>,
    topic: String,
    offset: i64,
    count: usize,
    removed: std::collections::BTreeMap<String, u64>,
    #[serde(borrow)]
    definitions: Vec<&'b RawValue>,
    /// Kill switches; absent in files of earlier versions.
    #[serde(borrow, default)]
    switches: Vec<&'b RawValue>,
    /// Known statuses of the sources of flags; absent in files of earlier versions.
    #[serde(default)]
    sources: Vec<SourceStatus>,
}

impl Disk {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("snapshot") }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads the snapshot; `None` if there is no file. A damaged file is renamed, so that it is not read
    /// again.
    pub fn load(&self) -> Result<Option<DiskSnapshot>, DiskError> {
        let bytes = match self.read() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        decode(&bytes).map(Some).map_err(|message| {
            // A failure of the renaming is ignored: the file is not used in either case.
            let _ = fs::rename(&self.path, self.path.with_extension("damaged"));
            DiskError::Damaged(message)
        })
    }

    /// Replaces the snapshot on disk. On an error the previous file is unchanged.
    pub fn save(&self, snapshot: &DiskSnapshot) -> io::Result<()> {
        private_files::replace(&self.path, &encode(snapshot).map_err(io::Error::other)?)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Reads one byte beyond the limit, so that `decode` can detect that the file is too large.
        File::open(&self.path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Encodes a snapshot as the content of the file.
pub fn encode(snapshot: &DiskSnapshot) -> Result<Vec<u8>, serde_json::Error> {
    let definitions = parse(&snapshot.saved.values)?;
    let switches = parse(&snapshot.saved.switches)?;
    // A single buffer is used, because with thousands of flags a second copy would dominate the memory of the
    // process.
    let mut file = head(&[0; 32]).into_bytes();
    let start = file.len();
    let body = Body {
        saved_at: snapshot.saved_at,
        topic: snapshot.topic.clone(),
        offset: snapshot.offset,
        count: definitions.len(),
        removed: snapshot.saved.removed.clone(),
        definitions,
        switches,
        sources: snapshot.sources.clone(),
    };
    serde_json::to_writer(&mut file, &body)?;
    let (first, rest) = file.split_at_mut(start);
    first.copy_from_slice(head(&Sha256::digest(&*rest)).as_bytes());
    Ok(file)
}

/// Decodes a file written by [`encode`]; an error describes the damage.
pub fn decode(file: &[u8]) -> Result<DiskSnapshot, String> {
    if file.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes"));
    }
    let mut parts = file.splitn(2, |byte| *byte == b'\n');
    let (head, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let head = String::from_utf8_lossy(head);
    let mut words = head.split(' ');
    if words.next() != Some(MAGIC) {
        return Err("not a snapshot of flagstream".to_owned());
    }
    match words.next() {
        Some(FORMAT_VERSION) => {}
        other => {
            return Err(format!(
                "unsupported format {other:?}; this version of flagstream reads format {FORMAT_VERSION}"
            ));
        }
    }
    if words.next() != Some(checksum(body).as_str()) || words.next().is_some() {
        return Err("the checksum does not match the content".to_owned());
    }
    let body: Body<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if body.count != body.definitions.len() {
        return Err(format!("{} definitions, expected {}", body.definitions.len(), body.count));
    }
    let bytes = |value: &&RawValue| Arc::from(value.get().as_bytes());
    let (values, switches) = (body.definitions.iter().map(bytes), body.switches.iter().map(bytes));
    Ok(DiskSnapshot {
        saved_at: body.saved_at,
        topic: body.topic,
        offset: body.offset,
        saved: Saved { values: values.collect(), removed: body.removed, switches: switches.collect() },
        sources: body.sources,
    })
}

fn parse(values: &[Arc<[u8]>]) -> Result<Vec<&RawValue>, serde_json::Error> {
    values.iter().map(|value| serde_json::from_slice(value)).collect()
}

/// First line of the file; its length is constant.
fn head(checksum: &[u8]) -> String {
    format!("{MAGIC} {FORMAT_VERSION} {}\n", hex::encode(checksum))
}

fn checksum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests;
