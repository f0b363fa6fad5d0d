//! The snapshot on disk: what an instance starts from when Kafka cannot be reached.
//!
//! ```text
//! flagstream-snapshot 1 <SHA-256 of all that follows, hex>\n
//! {"saved_at":…,"topic":…,"offset":…,"count":…,"removed":{…},"definitions":[…],"switches":[…],"sources":[…]}
//! ```
//!
//! A file is either whole or absent: it is written beside its place, synced, and renamed. One that is not whole, or
//! of another format, is put aside as `snapshot.damaged` and never believed in part.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::message::source_status::SourceStatus;
use crate::private_files;

use super::ledger::Saved;

/// A file larger than this is not ours.
pub const MAX_FILE_BYTES: u64 = 1 << 30;
const MAGIC: &str = "flagstream-snapshot";
const FORMAT_VERSION: &str = "1";

/// The place of the snapshot in an instance's state folder.
#[derive(Debug, Clone)]
pub struct Disk {
    path: PathBuf,
}

/// A snapshot with what is known about it.
#[derive(Debug, Clone)]
pub struct DiskSnapshot {
    pub saved_at: DateTime<Utc>,
    /// The definitions topic it was read from.
    pub topic: String,
    /// The offset behind the last record it holds.
    pub offset: i64,
    pub saved: Saved,
    pub sources: Vec<SourceStatus>,
}

/// Why a file cannot be used.
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
    /// Files of earlier versions have none.
    #[serde(borrow, default)]
    switches: Vec<&'b RawValue>,
    /// What was known of the sources of flags. Files of earlier versions have none.
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

    /// `None` if there is no file. A damaged one is put aside.
    pub fn load(&self) -> Result<Option<DiskSnapshot>, DiskError> {
        let bytes = match self.read() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        decode(&bytes).map(Some).map_err(|message| {
            // Best effort: what matters is that it is not used.
            let _ = fs::rename(&self.path, self.path.with_extension("damaged"));
            DiskError::Damaged(message)
        })
    }

    /// Puts `snapshot` in the place of the former one, or leaves that as it is.
    pub fn save(&self, snapshot: &DiskSnapshot) -> io::Result<()> {
        replace(&self.path, &encode(snapshot).map_err(io::Error::other)?)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // One byte more than allowed, so that `decode` sees that it is too much.
        File::open(&self.path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Puts a file in the place of the former one, or leaves that as it is.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    private_files::create_folder(folder)?;
    let temporary = path.with_extension("new");
    let mut file = private_files::create(&temporary)?;
    file.write_all(bytes)?;
    // Without this a crash of the machine could leave an empty file under the final name.
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// The whole file.
pub fn encode(snapshot: &DiskSnapshot) -> Result<Vec<u8>, serde_json::Error> {
    let definitions = parse(&snapshot.saved.values)?;
    let switches = parse(&snapshot.saved.switches)?;
    // In one buffer: with thousands of flags a second copy would be most of this process's memory.
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

/// The opposite of [`encode`]; an error says what is wrong with the file.
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
        other => return Err(format!("format {other:?}, this version reads {FORMAT_VERSION}")),
    }
    if words.next() != Some(checksum(body).as_str()) || words.next().is_some() {
        return Err("the checksum does not fit the content".to_owned());
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

/// The first line; always of the same length.
fn head(checksum: &[u8]) -> String {
    format!("{MAGIC} {FORMAT_VERSION} {}\n", hex::encode(checksum))
}

fn checksum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests;
