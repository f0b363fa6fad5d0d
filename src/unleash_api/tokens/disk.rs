//! Validated tokens on disk, as hashes, so that a restart while Unleash is unreachable serves them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::TokenKind;
use crate::private_files;

use super::cache::{Known, MAX_CACHED_TOKENS};
use super::{Access, Selection, TokenHash};

const FILE: &str = "unleash-tokens.json";
/// Maximum size of the file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A token as it is saved, on disk and in the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedToken {
    /// SHA-256 of the token, in hex.
    pub hash: String,
    pub kind: String,
    pub environment: String,
    /// `None`: all projects.
    pub projects: Option<BTreeSet<String>>,
    /// Time of the last validation, in milliseconds since 1970.
    pub validated_ms: i64,
}

#[derive(Debug, Clone)]
pub(super) struct TokenFile {
    path: PathBuf,
}

impl SavedToken {
    pub fn of(known: &Known) -> Self {
        Self {
            hash: hex::encode(known.hash),
            kind: known.access.kind.map_or("", TokenKind::name).to_owned(),
            environment: known.access.selection.environment.to_string(),
            projects: known.access.selection.projects.clone(),
            validated_ms: known.validated_ms(),
        }
    }

    /// The token, or `None` if it is not well-formed.
    pub fn restore(self) -> Option<Arc<Known>> {
        let mut hash: TokenHash = [0; 32];
        hex::decode_to_slice(&self.hash, &mut hash).ok()?;
        let kind = Some(TokenKind::of_name(&self.kind)?);
        let access = Access { kind, selection: Selection::of_projects(&self.environment, self.projects) };
        Some(Known::new(hash, access, self.validated_ms, None))
    }
}

impl TokenFile {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE) }
    }

    /// Reads all tokens; none if there is no file, or if it is damaged.
    pub fn read(&self) -> Vec<Arc<Known>> {
        let is_small = std::fs::metadata(&self.path).is_ok_and(|file| file.len() <= MAX_FILE_BYTES);
        if !is_small {
            return Vec::new();
        }
        let read = std::fs::read(&self.path)
            .and_then(|bytes| Ok(serde_json::from_slice::<Vec<SavedToken>>(&bytes)?));
        match read {
            Ok(saved) => saved.into_iter().take(MAX_CACHED_TOKENS).filter_map(SavedToken::restore).collect(),
            Err(error) => {
                // Not limited: the file is read once, at the start.
                tracing::warn!(file = %self.path.display(), %error, "the validated tokens of Unleash's SDKs cannot be \
                    read; they are validated again");
                Vec::new()
            }
        }
    }

    /// Replaces the file.
    pub fn write(&self, tokens: &[Arc<Known>]) -> io::Result<()> {
        let saved: Vec<_> = tokens.iter().map(|known| SavedToken::of(known)).collect();
        let bytes = serde_json::to_vec(&saved)?;
        if let Some(folder) = self.path.parent() {
            private_files::create_folder(folder)?;
        }
        let new = self.path.with_extension("new");
        private_files::write(&new, &bytes)?;
        std::fs::rename(new, &self.path)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::hash;
    use super::*;

    #[test]
    fn tokens_are_read_as_they_were_written_and_never_as_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::new(&folder.path().join("instance"));
        assert!(file.read().is_empty());
        let of = |text: &str, projects: Option<BTreeSet<String>>| {
            let access = Access {
                kind: Some(TokenKind::Backend),
                selection: Selection::of_projects("production", projects),
            };
            Known::new(hash(text), access, 7, Some(text))
        };
        let tokens = [of("secret-one", None), of("secret-two", Some(BTreeSet::from(["shop".to_owned()])))];
        file.write(&tokens).unwrap();
        let read = file.read();
        for (read, written) in read.iter().zip(&tokens) {
            assert_eq!((read.hash, &read.access), (written.hash, &written.access));
            assert_eq!((read.validated_ms(), read.text()), (7, None));
        }
        assert_eq!(read.len(), 2);
        let text = std::fs::read_to_string(folder.path().join("instance").join(FILE)).unwrap();
        assert!(!text.contains("secret"), "{text}");
        std::fs::write(folder.path().join("instance").join(FILE), "damaged").unwrap();
        assert!(file.read().is_empty());
    }
}
