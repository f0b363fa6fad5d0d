//! Conversion from Avro to JSON.

use chrono::{DateTime, SecondsFormat};

use crate::json::{Span, write_string};

use super::Broken;
use super::plan::{Plan, Step, Unit};
use super::wire::Input;

/// Maximum nesting of a message. A limit is needed because schemas may be recursive.
const MAX_DEPTH_LEVELS: usize = 64;
/// Maximum number of elements of all lists and maps of a message, plus skipped fields. A limit is needed
/// because elements without bytes could be repeated without end.
const MAX_ITEMS_COUNT: u64 = 1_000_000;

/// State of the conversion of one message.
struct Decoder<'m> {
    steps: &'m [Step],
    input: Input<'m>,
    out: &'m mut Vec<u8>,
    max_bytes: usize,
    items: u64,
    depth: usize,
}

impl Plan {
    /// Appends the message as JSON text of at most `max_bytes` bytes.
    pub fn to_json(&self, message: &[u8], out: &mut Vec<u8>, max_bytes: usize) -> Result<(), Broken> {
        let max_bytes = out.len() + max_bytes;
        let input = Input::new(message);
        let mut decoder = Decoder { steps: &self.steps, input, out, max_bytes, items: 0, depth: 0 };
        decoder.value(self.root)?;
        match decoder.input.left() {
            0 => Ok(()),
            left => Err(Broken::new(format!("{left} unexpected bytes after the end of the message"))),
        }
    }
}

impl<'m> Decoder<'m> {
    fn step(&self, id: usize) -> Result<&'m Step, Broken> {
        self.steps.get(id).ok_or_else(|| Broken::new("the schema references an unknown type"))
    }

    fn value(&mut self, id: usize) -> Result<(), Broken> {
        match self.step(id)? {
            Step::Null => self.put(b"null"),
            Step::Boolean => match self.input.byte()? {
                0 => self.put(b"false"),
                1 => self.put(b"true"),
                _ => Err(Broken::new("a boolean is neither 0 nor 1")),
            },
            Step::Integer => {
                let integer = self.input.long()?;
                self.put(itoa::Buffer::new().format(integer).as_bytes())
            }
            Step::Float => {
                let float = f32::from_le_bytes(self.input.array()?);
                self.number(float.is_finite(), &float)
            }
            Step::Double => {
                let double = f64::from_le_bytes(self.input.array()?);
                self.number(double.is_finite(), &double)
            }
            Step::Text => {
                let text = self.input.text()?;
                self.text(text)
            }
            Step::Json => self.json(),
            Step::Time(unit) => {
                let time = self.input.long()?;
                self.time(*unit, time)
            }
            Step::Symbol(symbols) => {
                let index = self.input.long()?;
                let symbol = usize::try_from(index).ok().and_then(|index| symbols.get(index));
                self.text(
                    symbol.ok_or_else(|| Broken::new("the schema's enum has no symbol with this index"))?,
                )
            }
            Step::List(of) => self.nested(|decoder| decoder.list(*of)),
            Step::Map(of) => self.nested(|decoder| decoder.map(*of)),
            Step::Union(branches) => {
                let branch = self.branch(branches)?;
                self.value(branch)
            }
            Step::Record(fields) => self.nested(|decoder| decoder.record(fields)),
            Step::Bytes | Step::Fixed(_) => Err(Broken::new("bytes cannot be represented in JSON")),
            Step::Unfit(misfit) => Err(Broken::new(misfit.to_string())),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        if self.out.len() + bytes.len() > self.max_bytes {
            return Err(Broken::new("the message is too large as JSON"));
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Broken> {
        if self.out.len() + text.len() > self.max_bytes {
            return Err(Broken::new("the message is too large as JSON"));
        }
        write_string(self.out, text);
        Ok(())
    }

    fn number(&mut self, finite: bool, number: &impl serde::Serialize) -> Result<(), Broken> {
        if !finite {
            return Err(Broken::new("a number is not finite"));
        }
        // Writing to a Vec cannot fail.
        let _ = serde_json::to_writer(&mut *self.out, number);
        Ok(())
    }

    /// Appends a JSON text after validating it; otherwise it could add members to the surrounding object.
    fn json(&mut self) -> Result<(), Broken> {
        let text = self.input.text()?;
        match Span::parse(text, MAX_DEPTH_LEVELS) {
            Ok(span) => self.put(span.text.as_bytes()),
            Err(error) => Err(Broken::new(format!("expected JSON text: {error}"))),
        }
    }

    fn time(&mut self, unit: Unit, time: i64) -> Result<(), Broken> {
        let time = match unit {
            Unit::Millis => DateTime::from_timestamp_millis(time),
            Unit::Micros => DateTime::from_timestamp_micros(time),
            Unit::Nanos => Some(DateTime::from_timestamp_nanos(time)),
        };
        let time = time.ok_or_else(|| Broken::new("a time is outside the supported range"))?;
        self.text(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<(), Broken>) -> Result<(), Broken> {
        if self.depth == MAX_DEPTH_LEVELS {
            return Err(Broken::new(format!("nested deeper than {MAX_DEPTH_LEVELS} levels")));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn branch(&mut self, branches: &[usize]) -> Result<usize, Broken> {
        let index = self.input.long()?;
        let branch = usize::try_from(index).ok().and_then(|index| branches.get(index).copied());
        branch.ok_or_else(|| Broken::new("the schema's union has no branch with this index"))
    }

    fn record(&mut self, fields: &[(Option<Box<str>>, usize)]) -> Result<(), Broken> {
        self.put(b"{")?;
        let begin = self.out.len();
        for (key, id) in fields {
            let Some(key) = key else {
                self.skip(*id)?;
                continue;
            };
            let id = match self.step(*id)? {
                Step::Union(branches) => self.branch(branches)?,
                _ => *id,
            };
            // Absent members are omitted.
            if matches!(self.step(id)?, Step::Null) {
                continue;
            }
            if self.out.len() > begin {
                self.put(b",")?;
            }
            self.text(key)?;
            self.put(b":")?;
            self.value(id).map_err(|Broken(error)| Broken(format!("{key}: {error}")))?;
        }
        self.put(b"}")
    }

    fn list(&mut self, of: usize) -> Result<(), Broken> {
        self.put(b"[")?;
        let mut first = true;
        self.blocks(|decoder| {
            if !std::mem::take(&mut first) {
                decoder.put(b",")?;
            }
            decoder.value(of)
        })?;
        self.put(b"]")
    }

    fn map(&mut self, of: usize) -> Result<(), Broken> {
        self.put(b"{")?;
        let mut first = true;
        self.blocks(|decoder| {
            if !std::mem::take(&mut first) {
                decoder.put(b",")?;
            }
            let key = decoder.input.text()?;
            decoder.text(key)?;
            decoder.put(b":")?;
            decoder.value(of).map_err(|Broken(error)| Broken(format!("{key}: {error}")))
        })?;
        self.put(b"}")
    }

    /// Reads the blocks of a list or map, each with its count, up to the block with count zero.
    fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Broken>) -> Result<(), Broken> {
        loop {
            let count = self.input.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // After a negative count follows the size of the block in bytes, for readers that skip it.
                self.input.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                self.count()?;
                item(self)?;
            }
        }
    }

    fn count(&mut self) -> Result<(), Broken> {
        self.items += 1;
        match self.items {
            0..=MAX_ITEMS_COUNT => Ok(()),
            _ => Err(Broken::new(format!("the message has more than {MAX_ITEMS_COUNT} elements"))),
        }
    }

    fn skip(&mut self, id: usize) -> Result<(), Broken> {
        match self.step(id)? {
            Step::Null => Ok(()),
            Step::Boolean => self.input.byte().map(drop),
            Step::Integer | Step::Time(_) | Step::Symbol(_) => self.input.long().map(drop),
            Step::Float => self.input.take(4).map(drop),
            Step::Double => self.input.take(8).map(drop),
            Step::Text | Step::Json | Step::Bytes => self.input.bytes().map(drop),
            Step::Fixed(size) => self.input.take(*size).map(drop),
            Step::Union(branches) => {
                let branch = self.branch(branches)?;
                self.skip(branch)
            }
            Step::List(of) => self.nested(|decoder| decoder.blocks(|decoder| decoder.skip(*of))),
            Step::Map(of) => self.nested(|decoder| {
                decoder.blocks(|decoder| {
                    decoder.input.bytes()?;
                    decoder.skip(*of)
                })
            }),
            Step::Record(fields) => self.nested(|decoder| {
                fields.iter().try_for_each(|(_, id)| {
                    decoder.count()?;
                    decoder.skip(*id)
                })
            }),
            Step::Unfit(misfit) => Err(Broken::new(misfit.to_string())),
        }
    }
}
