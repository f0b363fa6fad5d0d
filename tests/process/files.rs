//! Tests of the files that the process creates, and of their permissions.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::child::{Flagstream, shell};

/// All files and folders below `folder`.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { [vec![path.clone()], below(&path)].concat() } else { vec![path] })
        .collect()
}

#[test]
fn files_are_for_their_owner_only_whatever_the_umask() {
    for umask in ["022", "000"] {
        let folder = tempfile::tempdir().unwrap();
        let mut service = Flagstream::dev(&mut shell(folder.path(), &format!(r#"umask {umask}; exec "$@""#)));
        service.wait_for("/health/ready");
        // Checked while it runs, when SQLite's additional files exist too.
        let files = below(folder.path());
        let has = |text: &str| files.iter().any(|path| path.display().to_string().contains(text));
        assert!(
            has("spool") && has("lock") && has("flags.json") && has(".db") && has(".db-wal"),
            "{files:?}"
        );
        for path in files {
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{} under {umask}", path.display());
        }
        service.stop();
    }
}
