//! Source that reads a flag file in the format of Unleash's `/api/client/features` and watches it for
//! changes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::io::AsyncReadExt;

use super::answer::ANSWER_BYTES_MAX;
use super::fetch::{self, FetchError, FetchResult};

/// Interval between polls. A poll costs one `stat`.
pub const FILE_REFRESH: Duration = Duration::from_millis(250);

/// Minimum age of a file whose modification time identifies its content. A file may change twice within the
/// resolution of its time, so a younger one is read again.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Environment whose flags are in a file.
#[derive(Debug, Clone)]
pub struct FileSource {
    pub environment: String,
    path: PathBuf,
    accepted: Option<FileStamp>,
    offered: Option<FileStamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    modified: SystemTime,
    bytes: u64,
    /// Whether the file was old enough for its modification time to identify its content.
    settled: bool,
}

impl FileSource {
    pub fn new(environment: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { environment: environment.into(), path: path.into(), accepted: None, offered: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub async fn look(&mut self) -> Result<FetchResult, FetchError> {
        let metadata = tokio::fs::metadata(&self.path).await?;
        let modified = metadata.modified()?;
        // The stamp is taken before the file is read, so that a write in the meantime results in another
        // stamp.
        let settled = modified.elapsed().is_ok_and(|age| age >= SETTLED_AFTER);
        let stamp = FileStamp { modified, bytes: metadata.len(), settled };
        if stamp.settled && self.accepted == Some(stamp) {
            return Ok(FetchResult::Unchanged);
        }
        self.offered = Some(stamp);
        fetch::read(self.read().await?).await
    }

    /// Records whether the last response was accepted. If not, the next poll returns it again.
    pub fn settled(&mut self, accepted: bool) {
        if let Some(stamp) = self.offered.take()
            && accepted
        {
            self.accepted = Some(stamp);
        }
    }

    async fn read(&self) -> Result<Vec<u8>, FetchError> {
        let limit = ANSWER_BYTES_MAX;
        let mut body = Vec::new();
        let file = tokio::fs::File::open(&self.path).await?;
        file.take(limit as u64 + 1).read_to_end(&mut body).await?;
        if body.len() > limit {
            return Err(FetchError::TooLarge { limit });
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn features(flag_source: &mut FileSource) -> Option<usize> {
        match flag_source.look().await.unwrap() {
            FetchResult::Unchanged => None,
            FetchResult::Answer { answer, .. } => Some(answer.features.len()),
            FetchResult::Local { .. } => panic!("no local flags here"),
        }
    }

    fn write(path: &Path, body: &str, age: Duration) {
        std::fs::write(path, body).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[tokio::test]
    async fn a_file_is_read_again_only_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flags.json");
        let mut flag_source = FileSource::new("dev", &path);
        assert_eq!(flag_source.look().await.unwrap_err().reason(), "file");

        write(&path, r#"{"features":[{"name":"a"}]}"#, 2 * SETTLED_AFTER);
        assert_eq!(features(&mut flag_source).await, Some(1));
        flag_source.settled(false);
        assert_eq!(features(&mut flag_source).await, Some(1), "not accepted: seen again");
        flag_source.settled(true);
        for _ in 0..3 {
            assert_eq!(features(&mut flag_source).await, None);
            flag_source.settled(true);
        }

        write(&path, r#"{"features":[]}"#, SETTLED_AFTER);
        assert_eq!(features(&mut flag_source).await, Some(0));
    }

    #[tokio::test]
    async fn a_young_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flags.json");
        let mut flag_source = FileSource::new("dev", &path);
        write(&path, r#"{"features":[]}"#, Duration::ZERO);
        assert_eq!(features(&mut flag_source).await, Some(0));
        flag_source.settled(true);
        assert_eq!(features(&mut flag_source).await, Some(0));
    }
}
