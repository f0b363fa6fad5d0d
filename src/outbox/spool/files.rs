//! Files of the spool.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::private_files;

use super::Position;

const ACKNOWLEDGED: &str = "acknowledged";
const SUFFIX: &str = "spool";

/// Folder of the spool, which belongs to one process.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    /// Lock file, held as long as the folder is used.
    _lock: File,
}

impl Files {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        private_files::create_folder(folder)?;
        let lock = private_files::create(&folder.join("lock"))?;
        lock.try_lock().map_err(|_| {
            io::Error::new(
                ErrorKind::AddrInUse,
                format!("{}: the folder is in use by another process", folder.display()),
            )
        })?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    /// Number and size of each segment, oldest first.
    pub(super) fn segments(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let (path, bytes) = {
                let entry = entry?;
                (entry.path(), entry.metadata()?.len())
            };
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            if let (Some(number), Some(SUFFIX)) =
                (number, path.extension().and_then(|suffix| suffix.to_str()))
            {
                found.push((number, bytes));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    pub(super) fn create(&self, number: u64) -> io::Result<File> {
        private_files::options().create_new(true).append(true).open(self.path(number))
    }

    pub(super) fn read(&self, number: u64) -> io::Result<File> {
        File::open(self.path(number))
    }

    pub(super) fn remove(&self, number: u64) -> io::Result<()> {
        match fs::remove_file(self.path(number)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Reads the stored acknowledged position. `None` if it is missing or damaged; some events are then sent again.
    pub(super) fn acknowledged(&self) -> Option<Position> {
        let note = fs::read_to_string(self.folder.join(ACKNOWLEDGED)).ok()?;
        let (place, sum) = note.trim_end().rsplit_once(' ')?;
        let (segment, offset) = place.split_once(' ')?;
        let intact = crc32fast::hash(place.as_bytes()).to_string() == sum;
        let position = Position { segment: segment.parse().ok()?, offset: offset.parse().ok()? };
        intact.then_some(position)
    }

    pub(super) fn note_acknowledged(&self, position: Position) -> io::Result<()> {
        let place = format!("{} {}", position.segment, position.offset);
        let note = format!("{place} {}\n", crc32fast::hash(place.as_bytes()));
        // Replaced by a rename, so that a complete file exists at any time.
        let new = self.folder.join("acknowledged.new");
        private_files::write(&new, note.as_bytes())?;
        fs::rename(new, self.folder.join(ACKNOWLEDGED))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:016}.{SUFFIX}"))
    }
}
