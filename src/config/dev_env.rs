//! The environment file of a running `flagstream dev`. Other commands in the same folder read it, so that no variables
//! have to be exported.
//!
//! The file is `dev/env` in the state folder, with lines such as `NAME='value'`, which a shell can read too. `dev`
//! holds a lock on it while it runs. A file without a lock was left by a killed process and is ignored.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::private_files;

use super::settings;
use super::values::{Origin, Raw, Values};

/// Path of the file inside the state folder.
pub const ENV_FILE: &str = "dev/env";
const STATE_DIR_VARIABLE: &str = "FLAGSTREAM_STATE_DIR";
const DEFAULT_STATE_DIR: &str = "./.flagstream";
/// The line that marks the broker as the embedded one of `dev`, rather than a configured one.
const EMBEDDED: &str = "# embedded broker";
/// Maximum number of bytes that are read of the file.
const MAX_BYTES: u64 = 64 << 10;

/// The locked environment file of this process. Dropping it empties the file.
#[derive(Debug)]
pub struct DevEnv {
    file: File,
    path: PathBuf,
}

/// Reason why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DevEnvError {
    #[error("another flagstream dev is running in this folder{process}: stop it, or use another folder")]
    Running {
        /// ` (process 4711)` if the file contains the process id, else empty.
        process: String,
    },
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

impl DevEnv {
    /// Locks the file `env` in the folder and clears the content of a previous process.
    pub fn claim(folder: &Path) -> Result<Self, DevEnvError> {
        let path = folder.join("env");
        let failed = |error| DevEnvError::Io { path: path.clone(), error };
        private_files::create_folder(folder).map_err(failed)?;
        let mut options = private_files::options();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let process = text.lines().next().and_then(|line| line.strip_prefix("# process "));
                let process = process.map(|process| format!(" (process {process})")).unwrap_or_default();
                return Err(DevEnvError::Running { process });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        let mut claimed = Self { file, path };
        claimed.write(&[], false)?;
        Ok(claimed)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the variables in the file. With `is_embedded`, the broker is the embedded one, which takes no security
    /// settings.
    pub fn write(&mut self, variables: &[(&str, String)], is_embedded: bool) -> Result<(), DevEnvError> {
        let mut text = format!("# process {}\n", std::process::id());
        if is_embedded {
            text.push_str(EMBEDDED);
            text.push('\n');
        }
        for (name, value) in variables {
            text.push_str(&format!("{name}={}\n", quoted(value)));
        }
        let written = self.file.set_len(0).and_then(|()| self.file.rewind());
        let written = written.and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(|error| DevEnvError::Io { path: self.path.clone(), error })
    }
}

impl Drop for DevEnv {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

/// Adds the values of a running `dev`, if there is one.
pub(super) fn read(values: &mut Values) {
    let folder = std::env::var_os(STATE_DIR_VARIABLE).filter(|folder| !folder.is_empty());
    let path = Path::new(&folder.unwrap_or_else(|| OsString::from(DEFAULT_STATE_DIR))).join(ENV_FILE);
    if let Some(text) = text_of_running(&path) {
        read_text(&path, &text, values);
    }
}

fn text_of_running(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    // If the shared lock is granted, no `dev` holds the file.
    if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

fn read_text(path: &Path, text: &str, values: &mut Values) {
    if text.lines().any(|line| line == EMBEDDED) {
        // Security settings in `flagstream.toml` are for another broker.
        values.clear_client();
    }
    for (number, line) in text.lines().enumerate() {
        let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else { continue };
        if let Some(setting) = settings::of_variable(name) {
            let origin = Origin::File { file: path.display().to_string(), line: number + 1 };
            values.put(setting, Raw::One(unquoted(value)), origin);
        }
    }
}

/// Quotes a value for a shell.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+,-".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn unquoted(text: &str) -> String {
    let inner = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    inner.map_or_else(|| text.to_owned(), |inner| inner.replace(r"'\''", "'"))
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_file_of_a_running_process_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        let mut env = DevEnv::claim(folder.path()).unwrap();
        env.write(&[("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1".to_owned())], true).unwrap();
        let text = text_of_running(&path).unwrap();
        assert!(text.contains("KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1\n"), "{text}");
        let mut values = Values::new(false);
        values.begin_layer();
        read_text(&path, &text, &mut values);
        values.merge();
        let value = values.set.get("kafka.bootstrap_servers").unwrap();
        assert_eq!(value.raw.text(), "127.0.0.1:1");

        let another = DevEnv::claim(folder.path()).unwrap_err().to_string();
        assert!(another.contains(&format!("(process {})", std::process::id())), "{another}");
        drop(env);
        assert_eq!(text_of_running(&path), None);
        std::fs::write(&path, "KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1\n").unwrap();
        assert_eq!(text_of_running(&path), None, "left over from a process that was killed");
        DevEnv::claim(folder.path()).unwrap();
    }

    #[test]
    fn values_survive_being_quoted() {
        for value in ["", "plain/a.b:1", "sqlite:/home/a b/it's.db", "$HOME `x` \"y\""] {
            assert_eq!(unquoted(&quoted(value)), value);
        }
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
