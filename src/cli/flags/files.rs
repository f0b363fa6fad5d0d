//! Flags in JSON files. A file contains one flag or a list of flags, in the format of the API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::flag::local::{self, LocalFlag};

/// Environment and name of a flag.
pub type FlagKey = (String, String);
pub type Flags = BTreeMap<FlagKey, LocalFlag>;

/// Maximum number of files read from a folder.
const FILES_MAX: usize = 50_000;
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const LEVELS_MAX: usize = 16;

/// Reads the flags of all `*.json` files in the folder and its subfolders. The error lists all problems.
pub fn read(folder: &Path) -> anyhow::Result<Flags> {
    let mut files = Vec::new();
    find(folder, 0, &mut files)?;
    files.sort();
    let (mut flags, mut problems) = (Flags::new(), Vec::new());
    let mut sources: BTreeMap<FlagKey, PathBuf> = BTreeMap::new();
    for file in files {
        let shown = file.strip_prefix(folder).unwrap_or(&file).display().to_string();
        for (index, text) in documents(&file)?.iter().enumerate() {
            let place = if index == 0 { shown.clone() } else { format!("{shown}[{index}]") };
            match local::created(text.get().as_bytes()) {
                Ok((name, environment, flag)) => {
                    let key = (environment, name);
                    if let Some(first) = sources.insert(key.clone(), file.clone()) {
                        let first = first.strip_prefix(folder).unwrap_or(&first).display().to_string();
                        problems.push(format!("{place}: {}/{} is already defined in {first}", key.0, key.1));
                    }
                    flags.insert(key, flag);
                }
                Err(invalid) => {
                    problems
                        .extend(invalid.iter().map(|it| format!("{place}: {}: {}", it.field, it.message)));
                }
            }
        }
    }
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(flags)
}

/// Writes a flag to its file, `environment/name.json`. `false` if the file already had this content.
pub fn write(folder: &Path, (environment, name): &FlagKey, flag: &LocalFlag) -> anyhow::Result<bool> {
    let path = folder.join(file_name(environment)).join(format!("{}.json", file_name(name)));
    let mut document = document(flag)?;
    if let Some(members) = document.as_object_mut() {
        members.insert("name".to_owned(), name.as_str().into());
        members.insert("environment".to_owned(), environment.as_str().into());
    }
    let text = format!("{}\n", serde_json::to_string_pretty(&document)?);
    if std::fs::read_to_string(&path).is_ok_and(|before| before == text) {
        return Ok(false);
    }
    let context = || path.display().to_string();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(context)?;
    }
    std::fs::write(&path, text).with_context(context)?;
    Ok(true)
}

/// The flag as JSON, without the fields that only the service can set.
pub fn document(flag: &LocalFlag) -> serde_json::Result<Value> {
    serde_json::to_value(LocalFlag { archived_at: None, ..flag.clone() })
}

fn find(folder: &Path, level: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    anyhow::ensure!(level < LEVELS_MAX, "{}: nested deeper than {LEVELS_MAX} folders", folder.display());
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, level + 1, files)?;
        } else if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
            anyhow::ensure!(files.len() <= FILES_MAX, "{}: more than {FILES_MAX} files", folder.display());
        }
    }
    Ok(())
}

fn documents(path: &Path) -> anyhow::Result<Vec<Box<RawValue>>> {
    let context = || path.display().to_string();
    let bytes = std::fs::metadata(path).with_context(context)?.len();
    anyhow::ensure!(bytes <= FILE_BYTES_MAX, "{}: larger than {FILE_BYTES_MAX} bytes", path.display());
    let text = std::fs::read_to_string(path).with_context(context)?;
    let whole: Box<RawValue> = serde_json::from_str(&text).with_context(context)?;
    if whole.get().starts_with('[') {
        return serde_json::from_str(whole.get()).with_context(context);
    }
    Ok(vec![whole])
}

/// A file name: ASCII alphanumerics, `-`, `_` and `.` unchanged, everything else percent-encoded. The result is
/// never a hidden file or a path to another folder.
fn file_name(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        let plain =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && index > 0);
        if plain {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let flag = LocalFlag { is_enabled: true, tags: vec!["a".to_owned()], ..LocalFlag::default() };
        let places = [("dev", "a"), ("dev", "../b c/é"), ("prod", ".a")];
        let flags: Flags = places
            .map(|(environment, name)| ((environment.to_owned(), name.to_owned()), flag.clone()))
            .into();
        for (place, flag) in &flags {
            assert!(write(folder.path(), place, flag).unwrap());
            assert!(!write(folder.path(), place, flag).unwrap());
        }
        assert_eq!(read(folder.path()).unwrap(), flags);
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.json", r#"{"name": "a", "environment": "e", "surprise": 1}"#);
        write(
            "b.json",
            r#"[{"name": "b", "environment": "e"}, {"name": "b", "environment": "e", "type": "x"}]"#,
        );
        write("c.json", r#"{"name": "b", "environment": "e"}"#);
        write("ignored.txt", "{");
        let error = read(folder.path()).unwrap_err().to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 3, "{error}");
        assert!(lines[0].starts_with("a.json: surprise: "), "{error}");
        assert!(lines[1].starts_with("b.json[1]: type: "), "{error}");
        assert_eq!(lines[2], "c.json: e/b is already defined in b.json");
        write("d.json", "{");
        assert!(format!("{:#}", read(folder.path()).unwrap_err()).contains("d.json"));
    }
}
