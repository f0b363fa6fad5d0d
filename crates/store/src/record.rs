//! Decoding and validation of single records of the definitions topic.

use rdkafka::message::{BorrowedMessage, Headers, Message};
use serde_json::value::RawValue;

use crate::flag::{CompiledFlag, Provenance, local};
use crate::message::definition::{Definition, Source};
use crate::message::kill_switch::KillSwitch;

/// Maximum length of the name of an environment or a flag, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;
/// Maximum size of a record value in bytes: the largest definition and its envelope.
pub const MAX_VALUE_BYTES: usize = crate::flag::definition::MAX_DEFINITION_BYTES + 64 * 1024;

/// Record from the topic or the disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Record<'r> {
    pub key: Option<&'r [u8]>,
    /// Value; `None` for a tombstone.
    pub value: Option<&'r [u8]>,
    /// Value of the header `version`, which only a tombstone needs.
    pub version: Option<u64>,
}

/// Record key `environment/flag_name`. Names of environments contain no `/`; names of flags may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'r> {
    pub text: &'r str,
    pub environment: &'r str,
    pub flag: &'r str,
}

/// Reason why a record is refused. The flag's last valid version stays in force.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the key is not environment/flag_name")]
    Key,
    #[error("expected at most {MAX_VALUE_BYTES} bytes, got {0}")]
    TooLarge(usize),
    #[error("not a definition: {0}")]
    Body(serde_json::Error),
    #[error("not a kill switch: {0}")]
    Switch(serde_json::Error),
    #[error("the record's key is {key}, but its body is for {body}")]
    Name { key: String, body: String },
    #[error(transparent)]
    Compile(#[from] crate::flag::CompileError),
}

impl<'r> Key<'r> {
    pub fn parse(key: Option<&'r [u8]>) -> Result<Self, Refusal> {
        let text = key.and_then(|key| std::str::from_utf8(key).ok());
        let (text, (environment, flag)) =
            text.and_then(|text| Some((text, text.split_once('/')?))).ok_or(Refusal::Key)?;
        let well_sized = |name: &str| (1..=MAX_NAME_BYTES).contains(&name.len());
        if !well_sized(environment) || !well_sized(flag) {
            return Err(Refusal::Key);
        }
        Ok(Self { text, environment, flag })
    }

    fn check(&self, environment: &str, flag: &str) -> Result<(), Refusal> {
        if self.environment == environment && self.flag == flag {
            return Ok(());
        }
        Err(Refusal::Name { key: self.text.to_owned(), body: format!("{environment}/{flag}") })
    }
}

/// Decodes the envelope of a record value. The flag in it is not compiled yet.
pub fn decode(key: &Key<'_>, value: &[u8]) -> Result<Definition, Refusal> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Refusal::TooLarge(value.len()));
    }
    let definition: Definition = serde_json::from_slice(value).map_err(Refusal::Body)?;
    key.check(&definition.environment, &definition.flag_name)?;
    Ok(definition)
}

/// Definition of a flag that was read from the topic, as Unleash's client feature JSON. `None` for other flags.
pub fn definition_of(flag: &CompiledFlag) -> Option<Box<RawValue>> {
    let definition: Definition = serde_json::from_slice(flag.record.as_deref()?).ok()?;
    Some(definition.definition)
}

/// Decodes the record value of a kill switch.
pub fn decode_switch(key: &Key<'_>, value: &[u8]) -> Result<KillSwitch, Refusal> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Refusal::TooLarge(value.len()));
    }
    let switch: KillSwitch = serde_json::from_slice(value).map_err(Refusal::Switch)?;
    key.check(&switch.environment, &switch.flag_name)?;
    Ok(switch)
}

/// Compiles the flag of a definition.
pub fn compile(key: &Key<'_>, definition: &Definition) -> Result<CompiledFlag, Refusal> {
    let text = definition.definition.get();
    let mut flag = CompiledFlag::compile(key.environment, definition.version, text)?;
    // A flag enters the snapshot under the name in its definition, so a differing name would replace another
    // flag.
    key.check(&flag.environment, &flag.name)?;
    let source = definition.source;
    let revision = (source == Source::Local).then(|| local::revision(text)).flatten();
    flag.provenance = Some(Provenance { source, checksum: definition.checksum.as_str().into(), revision });
    Ok(flag)
}

/// Value of the header `version`, which a tombstone has in place of a body.
pub fn header_version(message: &BorrowedMessage<'_>) -> Option<u64> {
    let headers = message.headers()?;
    let value = headers.iter().find(|header| header.key == "version")?.value?;
    std::str::from_utf8(value).ok()?.parse().ok()
}
