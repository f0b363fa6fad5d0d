//! Conversion from JSON to Avro, for flagstream's own schemas.

use std::borrow::Cow;

use chrono::DateTime;

use crate::json::{JsonError, Kind, Scanner, Span};

use super::Broken;
use super::plan::{Plan, Step, Unit};
use super::wire::{write_long, write_text};

/// Deepest nesting of a message that is encoded.
const MAX_DEPTH_LEVELS: usize = 64;

impl Plan {
    /// Appends the Avro message for this JSON text. Members that the schema does not have are ignored.
    pub fn from_json(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Broken> {
        let span = Span::parse(text, MAX_DEPTH_LEVELS).map_err(not_json)?;
        self.write(self.root, Some(span), out)
    }

    /// Appends one value. `None` means that the member is absent.
    fn write(&self, id: usize, span: Option<Span<'_>>, out: &mut Vec<u8>) -> Result<(), Broken> {
        let span = span.filter(|span| span.kind != Kind::Null);
        let step = self.steps.get(id).ok_or_else(|| Broken::new("the schema references an unknown type"))?;
        if let Step::Union(branches) = step {
            return self.write_branch(branches, span, out);
        }
        let Some(span) = span else {
            return match step {
                Step::Null => Ok(()),
                // False is the default of every boolean field that has a default.
                Step::Boolean => {
                    out.push(0);
                    Ok(())
                }
                _ => Err(Broken::new("a required value is missing")),
            };
        };
        match (step, span.kind) {
            (Step::Boolean, Kind::Boolean) => out.push(u8::from(span.text == "true")),
            (Step::Integer, Kind::Number) => write_long(out, parsed(span)?),
            (Step::Double, Kind::Number) => out.extend_from_slice(&parsed::<f64>(span)?.to_le_bytes()),
            (Step::Text, Kind::String) => write_text(out, &text_of(span)),
            (Step::Json, _) => write_text(out, span.text),
            (Step::Time(Unit::Micros), Kind::String) => write_long(out, micros(span)?),
            (Step::Symbol(symbols), Kind::String) => {
                let text = text_of(span);
                let index = symbols.iter().zip(0i64..).find(|(symbol, _)| **symbol == text);
                let index =
                    index.ok_or_else(|| Broken::new(format!("the schema's enum has no symbol {text}")))?;
                write_long(out, index.1);
            }
            (Step::List(of), Kind::Array) => self.write_list(*of, span, out)?,
            (Step::Map(of), Kind::Object) => self.write_map(*of, span, out)?,
            (Step::Record(fields), Kind::Object) => self.write_record(fields, span, out)?,
            (step, kind) => return Err(Broken::new(format!("expected {step:?}, got {kind:?}"))),
        }
        Ok(())
    }

    fn write_branch(
        &self,
        branches: &[usize],
        span: Option<Span<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let is_null = |id: &usize| matches!(self.steps.get(*id), Some(Step::Null));
        let branch = branches.iter().zip(0i64..).find(|(id, _)| is_null(id) == span.is_none());
        let (id, index) =
            branch.ok_or_else(|| Broken::new("the schema's union has no branch for this value"))?;
        write_long(out, index);
        self.write(*id, span, out)
    }

    fn write_record(
        &self,
        fields: &[(Option<Box<str>>, usize)],
        span: Span<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let members = members(span)?;
        for (key, id) in fields {
            let key = key.as_deref().unwrap_or_default();
            let member = members.iter().rev().find(|(name, _)| name == key).map(|(_, span)| *span);
            self.write(*id, member, out).map_err(|Broken(error)| Broken(format!("{key}: {error}")))?;
        }
        Ok(())
    }

    fn write_list(&self, of: usize, span: Span<'_>, out: &mut Vec<u8>) -> Result<(), Broken> {
        let mut scanner = Scanner::new(span.text, MAX_DEPTH_LEVELS);
        let (mut items, mut first) = (Vec::new(), true);
        scanner.begin_array().map_err(not_json)?;
        while scanner.next_element(&mut first).map_err(not_json)? {
            items.push(scanner.value().map_err(not_json)?);
        }
        begin_block(items.len(), out);
        items.into_iter().try_for_each(|item| self.write(of, Some(item), out))?;
        end_blocks(out);
        Ok(())
    }

    fn write_map(&self, of: usize, span: Span<'_>, out: &mut Vec<u8>) -> Result<(), Broken> {
        let members = members(span)?;
        begin_block(members.len(), out);
        for (key, span) in members {
            write_text(out, &key);
            // A JSON field's text may be `null`, which must not be treated as absent.
            match self.steps.get(of) {
                Some(Step::Json) => write_text(out, span.text),
                _ => self.write(of, Some(span), out)?,
            }
        }
        end_blocks(out);
        Ok(())
    }
}

/// Begins a single block for all elements. An empty list or map has no block.
fn begin_block(count: usize, out: &mut Vec<u8>) {
    if count > 0 {
        write_long(out, i64::try_from(count).unwrap_or(i64::MAX));
    }
}

fn end_blocks(out: &mut Vec<u8>) {
    out.push(0);
}

fn members(span: Span<'_>) -> Result<Vec<(Cow<'_, str>, Span<'_>)>, Broken> {
    let mut scanner = Scanner::new(span.text, MAX_DEPTH_LEVELS);
    let (mut members, mut first) = (Vec::new(), true);
    scanner.begin_object().map_err(not_json)?;
    while let Some(key) = scanner.next_key(&mut first).map_err(not_json)? {
        members.push((key, scanner.value().map_err(not_json)?));
    }
    Ok(members)
}

fn text_of(span: Span<'_>) -> Cow<'_, str> {
    span.as_string().unwrap_or_default()
}

fn parsed<N: std::str::FromStr>(span: Span<'_>) -> Result<N, Broken> {
    span.text.parse().map_err(|_| {
        Broken::new(format!("the number {} is outside the range of the schema's type", span.text))
    })
}

fn micros(span: Span<'_>) -> Result<i64, Broken> {
    let text = text_of(span);
    let time = DateTime::parse_from_rfc3339(&text)
        .map_err(|_| Broken::new(format!("expected a time in RFC 3339 format, got {text}")))?;
    Ok(time.timestamp_micros())
}

fn not_json(error: JsonError) -> Broken {
    Broken::new(error.to_string())
}
