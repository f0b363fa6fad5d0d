//! Every setting of the table has an effect: it changes the configuration, and the program reads what it changes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;

/// Values of which at least one is valid for each setting and differs from its default.
const VALUES: &[&str] = &[
    "true",
    "false",
    "none",
    "7",
    "3m",
    "9s",
    "500ms",
    "3MiB",
    "9MiB",
    "9KiB",
    "company=companies",
    "json",
    "avro",
    "hash",
    "record",
    "sync",
    "at_least_once",
    "consumer",
    "redis_first",
    "127.0.0.1:9999",
    "sqlite::memory:",
    "http://other:9999",
    "redis://other:9999",
    "https://app.example.com",
    "debug",
    "read",
    "a-value-from-16-characters",
    "10.0.0.0/8",
    "a-secret@development",
    "prefer",
    "/base",
    "x-forwarded-user",
    "omit",
    "together",
];

/// Settings that are only valid together with others.
const TOGETHER: &[(&str, &[(&str, &str)])] = &[
    ("FLAGSTREAM_HTTP__TLS_CERTIFICATE", &[("FLAGSTREAM_HTTP__TLS_KEY", "key.pem")]),
    ("FLAGSTREAM_HTTP__TLS_KEY", &[("FLAGSTREAM_HTTP__TLS_CERTIFICATE", "certificate.pem")]),
    ("FLAGSTREAM_PRIVACY__HASH_ATTRIBUTES", &[("FLAGSTREAM_PRIVACY__HASH_KEY", "a-key-from-16-characters")]),
    ("FLAGSTREAM_PRIVACY__USER_IDS", &[("FLAGSTREAM_PRIVACY__HASH_KEY", "a-key-from-16-characters")]),
    ("FLAGSTREAM_AUTH__USER_HEADER", &[("FLAGSTREAM_AUTH__TRUSTED_PROXIES", "10.0.0.0/8")]),
    ("FLAGSTREAM_ATTRIBUTES__TABLES", &[("FLAGSTREAM_ATTRIBUTES__ENABLED", "true")]),
    ("UNLEASH_URL", &[("UNLEASH_API_TOKEN", "token")]),
    ("UNLEASH_API_TOKEN", &[("UNLEASH_URL", "http://unleash")]),
    ("UNLEASH_ENVIRONMENT", &[("UNLEASH_URL", "http://unleash"), ("UNLEASH_API_TOKEN", "token")]),
];

/// The configuration as text, in which a secret shows only whether it is set; `None` if it is invalid.
fn loaded(file: &str, variables: &[(&str, &str)]) -> Option<String> {
    from(file, variables).ok().map(|loaded| format!("{:?}", loaded.config))
}

fn has_effect(setting: &settings::Setting) -> bool {
    let together = TOGETHER.iter().find(|(variable, _)| *variable == setting.variable);
    let is_format = setting.variable.starts_with("FLAGSTREAM_FORMAT__");
    let registry: &[_] = if is_format { &[("SCHEMA_REGISTRY_URL", "http://registry")] } else { &[] };
    let others = together.map_or(registry, |(_, others)| *others);
    let name = match (setting.mask, setting.variable) {
        (Mask::Group, "") if setting.path == "taps" => {
            let entry = "[[taps]]\nname = \"x\"\nsource = \"a\"\ntarget = \"b\"\nflags = [\"f\"]\n";
            return loaded(entry, &[]).is_some_and(|config| config.contains("\"x\""));
        }
        (Mask::Group, "") => {
            let entry = "[unleash]\nurl = \"http://unleash\"\n[[unleash.environments]]\nname = \"x\"\ntoken = \"t\"\n";
            return loaded(entry, &[]).is_some_and(|config| config.contains("\"x\""));
        }
        (Mask::Group, prefix) => format!("{prefix}CLIENT_RACK"),
        (_, variable) => variable.to_owned(),
    };
    // Without this one, the other settings may be invalid.
    let before = loaded("", others).or_else(|| loaded("", &[]));
    VALUES.iter().any(|value| {
        let mut variables = others.to_vec();
        variables.push((&name, value));
        loaded("", &variables).is_some_and(|after| Some(after) != before)
    })
}

#[test]
fn every_setting_changes_the_configuration() {
    let idle: Vec<_> =
        SETTINGS.iter().filter(|setting| !has_effect(setting)).map(|setting| setting.name()).collect();
    assert_eq!(idle, [""; 0], "settings that nothing reads, or for which VALUES has no valid value");
}

fn rust_files(folder: PathBuf, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The compiler does not see this, because the fields are public in a library.
#[test]
fn every_field_of_the_configuration_is_read_by_the_program() -> std::io::Result<()> {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(source.clone(), &mut files)?;
    let (mut fields, mut words) = (BTreeSet::new(), BTreeSet::new());
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let code = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        // The sections hand values to the crates, which are the program too.
        let is_declaration = file.parent() == Some(&source.join("config")) && !file.ends_with("sections.rs");
        if is_declaration {
            let declared =
                code.filter_map(|line| line.strip_prefix("pub ")?.strip_suffix(',')?.split_once(": "));
            let in_config = ["mod.rs", "formats.rs"].iter().any(|name| file.ends_with(name));
            fields.extend(declared.filter(|_| in_config).map(|(name, _)| name.to_owned()));
        } else if !file.to_string_lossy().contains("test") {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            words.extend(code.flat_map(|line| line.split(|c| !is_word(c))).map(str::to_owned));
        }
    }
    assert!(fields.len() > 80, "{fields:?}");
    // What `load` returns beside the configuration, and what `config` itself reads for a notice.
    let elsewhere = ["anonymous_by_default"];
    let unused: Vec<_> = fields
        .iter()
        .filter(|field| !words.contains(*field) && !elsewhere.contains(&field.as_str()))
        .collect();
    assert_eq!(unused, [""; 0], "fields of the configuration that nothing reads");
    Ok(())
}
