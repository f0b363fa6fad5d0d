//! Folders and files that only the user of this process may read.
//!
//! The state folder contains user ids, contexts and flag definitions. Folders get mode 0700 and files 0600, whatever
//! the umask. When a file is written, a symbolic link in its place is not followed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Permission bits of users other than the owner.
#[cfg(unix)]
const OTHERS: u32 = 0o077;

/// Creates `folder` and the folders above it that do not exist. Existing folders keep their mode, see [`open_to_others`].
pub fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Options that create a file for its owner only. The caller adds the access mode.
pub fn options() -> OpenOptions {
    let mut options = File::options();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    }
    options
}

/// Creates the file at `path`, or truncates an existing one.
pub fn create(path: &Path) -> io::Result<File> {
    let file = options().write(true).create(true).truncate(true).open(path)?;
    close_to_others(&file)?;
    Ok(file)
}

/// Writes `bytes` to the file at `path`, which is created or replaced.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create(path)?.write_all(bytes)
}

/// Replaces a file atomically. On an error the previous file is unchanged.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    create_folder(folder)?;
    let temporary = path.with_extension("new");
    let mut file = create(&temporary)?;
    file.write_all(bytes)?;
    // Without the sync, a crash of the machine could leave an empty file under the final name.
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Creates an empty file at `path` if there is none. An existing file is left unchanged.
pub fn create_if_missing(path: &Path) -> io::Result<()> {
    match options().write(true).create_new(true).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The permissions of `folder`, such as `755`, if it exists and users other than its owner may enter it.
#[cfg(unix)]
pub fn open_to_others(folder: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(folder).ok()?.permissions().mode() & 0o777;
    (mode & OTHERS != 0).then(|| format!("{mode:03o}"))
}

/// Removes the permissions of other users, which an earlier version or another umask may have set.
#[cfg(unix)]
fn close_to_others(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    match file.set_permissions(fs::Permissions::from_mode(mode & !OTHERS)) {
        // The mode of another user's file cannot be changed, so it stays as it is.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        changed => changed,
    }
}

#[cfg(not(unix))]
pub fn open_to_others(_: &Path) -> Option<String> {
    None
}

#[cfg(not(unix))]
fn close_to_others(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn folders_and_files_are_for_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/b");
        create_folder(&state).unwrap();
        create_folder(&state).unwrap();
        assert_eq!((mode(&folder.path().join("a")), mode(&state)), (0o700, 0o700));
        write(&state.join("written"), b"text").unwrap();
        create_if_missing(&state.join("made")).unwrap();
        assert_eq!((mode(&state.join("written")), mode(&state.join("made"))), (0o600, 0o600));
        assert_eq!(open_to_others(&state), None);
    }

    #[test]
    fn what_was_open_to_others_is_closed_or_reported() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        create_if_missing(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        write(&file, b"new").unwrap();
        assert_eq!((mode(&file), fs::read_to_string(&file).unwrap().as_str()), (0o600, "new"));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(open_to_others(folder.path()).as_deref(), Some("755"));
        assert_eq!(open_to_others(&folder.path().join("none")), None);
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, link) = (folder.path().join("victim"), folder.path().join("link"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        assert!(write(&link, b"overwritten").is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }
}
