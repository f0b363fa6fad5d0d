//! Decodes evaluations from Postgres' binary `COPY` format, the counterpart of the sink's encoder.

use std::borrow::Cow;

use uuid::Uuid;

use crate::audit::evaluation::{Evaluation, Source};
use crate::audit::postgres::copy::{COLUMNS, EPOCH_MICROS, HEADER, JSONB_VERSION};
use crate::replay::{ReplayError, Session};

use super::BLOCK_BYTES;

/// Length of the signature, the flags and the extension length.
const HEADER_BYTES: usize = HEADER.len();

/// Collects received bytes into blocks of whole rows.
#[derive(Debug, Default)]
pub struct Copied {
    has_begun: bool,
    bytes: Vec<u8>,
}

impl Copied {
    /// Adds a chunk. Returns a block of whole rows once there are at least [`BLOCK_BYTES`].
    pub fn add(&mut self, chunk: &[u8]) -> Result<Option<Vec<u8>>, ReplayError> {
        self.bytes.extend_from_slice(chunk);
        if !self.has_begun {
            if self.bytes.len() < HEADER_BYTES {
                return Ok(None);
            }
            if !self.bytes.starts_with(HEADER) {
                return Err(ReplayError::Format);
            }
            self.bytes.drain(..HEADER_BYTES);
            self.has_begun = true;
        }
        // Postgres sends each row in one chunk, so the buffer holds whole rows.
        Ok((self.bytes.len() >= BLOCK_BYTES)
            .then(|| std::mem::replace(&mut self.bytes, Vec::with_capacity(BLOCK_BYTES))))
    }

    pub fn rest(self) -> Vec<u8> {
        self.bytes
    }
}

impl Session {
    /// Replays all rows of a block. Returns the number of rows.
    pub(super) fn take_block(&mut self, block: &[u8]) -> Result<u64, ReplayError> {
        each_row(block, |row| self.take(row))
    }
}

/// Calls `take` with each row of a block of whole rows. Returns the number of rows.
pub fn each_row(block: &[u8], mut take: impl FnMut(&Evaluation<'_>)) -> Result<u64, ReplayError> {
    let (mut fields, mut rows) = (Fields { rest: block }, 0);
    while let Some(row) = fields.row()? {
        take(&row);
        rows += 1;
    }
    Ok(rows)
}

struct Fields<'b> {
    rest: &'b [u8],
}

impl<'b> Fields<'b> {
    /// Decodes the next row. `None`: the block has no more rows.
    fn row(&mut self) -> Result<Option<Evaluation<'b>>, ReplayError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let columns = i16::from_be_bytes(self.array()?);
        if columns == -1 {
            return Ok(None);
        }
        if columns != COLUMNS {
            return Err(ReplayError::Format);
        }
        Ok(Some(Evaluation {
            flag_name: self.text()?.ok_or(ReplayError::Format)?,
            user_id: self.text()?,
            context: self.json()?.ok_or(ReplayError::Format)?,
            result: self.boolean()?,
            variant: self.text()?,
            evaluated_value: self.json()?,
            environment: self.text()?.ok_or(ReplayError::Format)?,
            evaluated_at: self.number()?.ok_or(ReplayError::Format)?.saturating_add(EPOCH_MICROS),
            reason: self.text()?.ok_or(ReplayError::Format)?,
            event_id: Uuid::from_bytes(self.sized()?.ok_or(ReplayError::Format)?),
            request_id: self.text()?,
            session_id: self.text()?,
            enabled: self.boolean()?.ok_or(ReplayError::Format)?,
            default_value: self.json()?,
            error_code: self.text()?,
            error_message: self.text()?,
            flag_version: self.number()?,
            evaluation_ns: None,
            source: self.source()?,
            assignment: None,
            amended: self.boolean()?.ok_or(ReplayError::Format)?,
            flags_version: self.number()?,
            value_type: self.text()?,
            audit_block: self.number()?,
            attributes: self.json()?,
        }))
    }

    fn source(&mut self) -> Result<Source<'b>, ReplayError> {
        let topic = self.text()?;
        let partition = self.sized()?.map(i32::from_be_bytes);
        let offset = self.number()?;
        let index = self.sized()?.map(i32::from_be_bytes);
        let api = self.text()?;
        Ok(match (topic, partition, offset, index, api) {
            (Some(topic), Some(partition), Some(offset), Some(index), _) => {
                Source::Kafka { topic, topic_id: None, partition, offset, index, tap: None }
            }
            (.., Some(api)) => Source::Api(api),
            _ => Source::Unknown,
        })
    }

    fn bytes(&mut self, count: usize) -> Result<&'b [u8], ReplayError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(ReplayError::Format)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReplayError> {
        self.bytes(N)?.try_into().map_err(|_| ReplayError::Format)
    }

    fn field(&mut self) -> Result<Option<&'b [u8]>, ReplayError> {
        let length = i32::from_be_bytes(self.array()?);
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| ReplayError::Format)?;
        self.bytes(length).map(Some)
    }

    fn sized<const N: usize>(&mut self) -> Result<Option<[u8; N]>, ReplayError> {
        let field = self.field()?;
        field.map(|bytes| bytes.try_into().map_err(|_| ReplayError::Format)).transpose()
    }

    fn text(&mut self) -> Result<Option<Cow<'b, str>>, ReplayError> {
        let field = self.field()?;
        field
            .map(|bytes| std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| ReplayError::Format))
            .transpose()
    }

    fn json(&mut self) -> Result<Option<Cow<'b, str>>, ReplayError> {
        let Some(field) = self.field()? else { return Ok(None) };
        let text = field.strip_prefix(&[JSONB_VERSION]).ok_or(ReplayError::Format)?;
        std::str::from_utf8(text).map(|text| Some(Cow::Borrowed(text))).map_err(|_| ReplayError::Format)
    }

    fn number(&mut self) -> Result<Option<i64>, ReplayError> {
        Ok(self.sized()?.map(i64::from_be_bytes))
    }

    fn boolean(&mut self) -> Result<Option<bool>, ReplayError> {
        Ok(self.sized::<1>()?.map(|[byte]| byte != 0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::evaluation::Event;
    use crate::audit::postgres::copy;

    #[test]
    fn what_the_sink_writes_is_read_back() {
        let event = |source: &str, more: &str| {
            format!(
                r#"{{"event_type":"FEATURE_FLAG_EVALUATED","event_id":"0190b5a0-0000-7000-8000-000000000001",
                "flag_name":"f","environment":"e","enabled":true,"reason":"DEFAULT","flag_version":5,"flags_version":7,
                "evaluated_at":"2026-01-15T10:30:00.012345Z","context":{{"a":"b"}},"source":{source}{more}}}"#
            )
        };
        let events = [
            event(
                r#"{"topic":"t","partition":3,"offset":9,"index":1}"#,
                r#","typed_value":true,"user_id":"u""#,
            ),
            event(
                r#"{"api":"rest"}"#,
                r#","typed_value":"x","variant":"v","default_value":"d","session_id":"s","value_type":"string",
                    "attributes":{"user":{"partition":3,"offset":17,"names":["a"]}}"#,
            ),
            event("null", r#","error_code":"GENERAL","error_message":"m","request_id":"r""#),
        ];
        let rows = events.each_ref().map(|event| match Event::read(event.as_bytes()).unwrap() {
            Event::Evaluated(row) => *row,
            other => panic!("{other:?}"),
        });
        let mut written = Vec::new();
        rows.iter().for_each(|row| copy::row(row, &mut written));
        written.extend_from_slice(copy::TRAILER);
        let mut copied = Copied::default();
        assert!(copied.add(HEADER).unwrap().is_none() && copied.add(&written).unwrap().is_none());
        let bytes = copied.rest();
        let mut fields = Fields { rest: &bytes };
        for row in &rows {
            assert_eq!(fields.row().unwrap().as_ref(), Some(row));
        }
        assert_eq!(fields.row().unwrap(), None);
        assert!(Fields { rest: &bytes[..40] }.row().is_err(), "cut");
        assert!(Copied::default().add(b"not what COPY sends, whatever").is_err());
    }
}
