//! Plans for reading and writing messages of one schema, computed once per schema.
//!
//! Fields are matched by name, as in Avro's schema resolution: fields that flagstream's schema lacks are
//! skipped, and missing fields get its defaults. Some cases beyond Avro's rules are accepted: records may
//! have another name; a text field may be a number or boolean in the writer's schema; and a field that
//! carries JSON text may have any type with a JSON form.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{Name, NamesRef, RecordSchema, ResolvedSchema, UuidSchema};

use super::Writer;

/// Maximum nesting of a schema, including references by name.
const MAX_DEPTH_LEVELS: usize = 200;

/// Plan for converting messages of one schema to JSON and, for flagstream's own schemas, from JSON.
#[derive(Debug)]
pub struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) root: usize,
}

/// Error: a schema is not compatible with the expected message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}expected {expected}, but the writer's schema has {got}", place = place(.field))]
pub struct Misfit {
    pub field: String,
    expected: &'static str,
    got: String,
}

/// Operation for one value of a message. Nested steps are referenced by their index in [`Plan::steps`].
#[derive(Debug)]
pub(super) enum Step {
    Null,
    Boolean,
    Integer,
    Float,
    Double,
    Text,
    /// Text that contains arbitrary JSON.
    Json,
    Time(Unit),
    Symbol(Vec<String>),
    List(usize),
    Map(usize),
    Union(Vec<usize>),
    /// Fields of a record; those without a name are skipped.
    Record(Vec<(Option<Box<str>>, usize)>),
    Bytes,
    Fixed(usize),
    /// Branch of a union that flagstream's schema does not accept. Only messages that use it are refused.
    Unfit(Misfit),
}

/// Unit of a time, counted from 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Millis,
    Micros,
    Nanos,
}

/// Expected use of a value.
#[derive(Debug, Clone, Copy)]
enum Want<'r> {
    /// The value is skipped.
    Nothing,
    /// The value is converted to JSON, whatever its type.
    Anything,
    /// The value must match flagstream's schema. The flag states whether its texts contain JSON.
    Own(&'r Schema, bool),
    /// The value must match one of flagstream's records.
    OneOf(&'r [&'r Schema]),
}

struct Resolver<'r> {
    writer: NamesRef<'r>,
    reader: NamesRef<'r>,
    steps: Vec<Step>,
    /// Records that are skipped or converted completely, with their steps. Reusing the steps supports
    /// recursive records.
    whole: HashMap<(Name, bool), usize>,
    depth: usize,
    /// Whether fields of a completely converted record that have no JSON form are skipped.
    skips_unreadable: bool,
}

impl Plan {
    /// Computes how messages of `writer` are read as one of `readers`.
    pub(super) fn resolve(writer: &Writer, readers: &[&Schema]) -> Result<Self, Misfit> {
        Self::resolve_as(writer, readers, Want::OneOf(readers))
    }

    fn resolve_as<'r>(writer: &'r Writer, readers: &'r [&'r Schema], want: Want<'r>) -> Result<Self, Misfit> {
        let mut resolver = Resolver {
            writer: names(writer.others.iter().chain([&writer.schema]).collect())?,
            reader: names(readers.to_vec())?,
            steps: Vec::new(),
            whole: HashMap::new(),
            depth: 0,
            // A consumer that wants everything takes what it can.
            skips_unreadable: matches!(want, Want::Anything),
        };
        let root = resolver.step(&writer.schema, want)?;
        Ok(Self { steps: resolver.steps, root })
    }

    /// Computes how messages of any schema are converted completely. Fields of records that have no JSON form, such as
    /// bytes, are skipped.
    pub(super) fn complete(writer: &Writer) -> Result<Self, Misfit> {
        Self::resolve_as(writer, &[], Want::Anything)
    }
}

impl Misfit {
    fn new(expected: &'static str, got: impl Into<String>) -> Self {
        Self { field: String::new(), expected, got: got.into() }
    }

    fn within(self, field: &str) -> Self {
        let inner = if self.field.is_empty() { String::new() } else { format!(".{}", self.field) };
        Self { field: format!("{field}{inner}"), ..self }
    }
}

impl<'r> Resolver<'r> {
    fn add(&mut self, step: Step) -> usize {
        self.steps.push(step);
        self.steps.len() - 1
    }

    fn step(&mut self, writer: &'r Schema, want: Want<'r>) -> Result<usize, Misfit> {
        if self.depth == MAX_DEPTH_LEVELS {
            return Err(Misfit::new("fewer nested levels", format!("more than {MAX_DEPTH_LEVELS}")));
        }
        self.depth += 1;
        let step = self.step_of(writer, want);
        self.depth -= 1;
        step
    }

    fn step_of(&mut self, writer: &'r Schema, want: Want<'r>) -> Result<usize, Misfit> {
        match (writer, want) {
            (Schema::Ref { name }, _) => match self.writer.get(name).copied() {
                Some(named) => self.step(named, want),
                None => Err(Misfit::new("a type", format!("no type {name}"))),
            },
            (Schema::Union(union), _) => self.union(union.variants(), want),
            (_, Want::OneOf(readers)) => self.one_of(writer, readers),
            (_, Want::Own(Schema::Union(union), json)) => self.branch(writer, union.variants(), json),
            (_, Want::Own(Schema::Ref { name }, json)) => match self.reader.get(name).copied() {
                Some(named) => self.step(writer, Want::Own(named, json)),
                None => Err(Misfit::new("a type", format!("no type {name}"))),
            },
            (_, Want::Own(own, json)) => self.own(writer, own, json),
            (_, Want::Nothing | Want::Anything) => self.whole(writer, matches!(want, Want::Anything)),
        }
    }

    /// Resolves a union of the writer. A branch that does not match causes an error only for messages that
    /// use it.
    fn union(&mut self, branches: &'r [Schema], want: Want<'r>) -> Result<usize, Misfit> {
        let mut misfit = None;
        let mut fits = false;
        let mut steps = Vec::with_capacity(branches.len());
        for branch in branches {
            steps.push(match self.step(branch, want) {
                Ok(step) => {
                    fits |= !matches!(branch, Schema::Null);
                    step
                }
                Err(error) => {
                    misfit.get_or_insert_with(|| error.clone());
                    self.add(Step::Unfit(error))
                }
            });
        }
        match misfit {
            Some(misfit) if !fits => Err(misfit),
            _ => Ok(self.add(Step::Union(steps))),
        }
    }

    /// Resolves against the reader with the same name, otherwise against the first one that matches.
    fn one_of(&mut self, writer: &'r Schema, readers: &'r [&'r Schema]) -> Result<usize, Misfit> {
        let name = |schema: &Schema| schema.name().map(|name| name.name().to_owned());
        let mut readers = readers.to_vec();
        readers.sort_by_key(|reader| name(reader) != name(writer));
        let mut first = None;
        for reader in readers {
            match self.step(writer, Want::Own(reader, false)) {
                Ok(step) => return Ok(step),
                Err(misfit) => first = first.or(Some(misfit)),
            }
        }
        Err(first.unwrap_or_else(|| Misfit::new("a record", describe(writer))))
    }

    /// Resolves against a union in flagstream's schema. Its branches differ in kind, so the first match is
    /// the only one.
    fn branch(&mut self, writer: &'r Schema, own: &'r [Schema], json: bool) -> Result<usize, Misfit> {
        let mut last = Misfit::new("one of several types", describe(writer));
        for own in own {
            match self.step(writer, Want::Own(own, json)) {
                Ok(step) => return Ok(step),
                Err(misfit) => last = misfit,
            }
        }
        Err(last)
    }

    fn own(&mut self, writer: &'r Schema, own: &'r Schema, json: bool) -> Result<usize, Misfit> {
        use Schema as S;
        let step = match (own, writer) {
            (S::Null, S::Null) => Step::Null,
            (S::Boolean, S::Boolean) => Step::Boolean,
            (S::Int | S::Long | S::Double, S::Int | S::Long) => Step::Integer,
            (S::Double, S::Float) => Step::Float,
            (S::Double, S::Double) => Step::Double,
            (S::String, S::String | S::Bytes | S::Uuid(UuidSchema::String)) if json => Step::Json,
            (S::String, writer) if json && !matches!(writer, S::Null) => return self.whole(writer, true),
            (S::String | S::Uuid(_), S::String | S::Bytes | S::Uuid(UuidSchema::String)) => Step::Text,
            (S::String | S::Enum(_), S::Enum(symbols)) => Step::Symbol(symbols.symbols.clone()),
            (S::Enum(_), S::String) | (S::TimestampMicros, S::String) => Step::Text,
            (S::String, S::Boolean) => Step::Boolean,
            (S::String, S::Int | S::Long) => Step::Integer,
            (S::TimestampMicros, S::TimestampMicros | S::LocalTimestampMicros | S::Long) => {
                Step::Time(Unit::Micros)
            }
            (S::TimestampMicros, S::TimestampMillis | S::LocalTimestampMillis) => Step::Time(Unit::Millis),
            (S::TimestampMicros, S::TimestampNanos | S::LocalTimestampNanos) => Step::Time(Unit::Nanos),
            (S::Array(own), S::Array(writer)) => {
                Step::List(self.step(&writer.items, Want::Own(&own.items, json))?)
            }
            (S::Map(own), S::Map(writer)) => {
                Step::Map(self.step(&writer.types, Want::Own(&own.types, json))?)
            }
            (S::Map(_), S::Record(_)) if json => return self.whole(writer, true),
            (S::Record(own), S::Record(writer)) => self.record(own, writer)?,
            _ => return Err(Misfit::new(expected(own), describe(writer))),
        };
        Ok(self.add(step))
    }

    fn record(&mut self, own: &'r RecordSchema, writer: &'r RecordSchema) -> Result<Step, Misfit> {
        let is_for = |own: &apache_avro::schema::RecordField, name: &String| {
            own.name == *name || own.aliases.contains(name)
        };
        let mut fields = Vec::with_capacity(writer.fields.len());
        for field in &writer.fields {
            let own = own.fields.iter().find(|own| is_for(own, &field.name));
            fields.push(match own {
                None => (None, self.step(&field.schema, Want::Nothing)?),
                Some(own) => {
                    let json = own.custom_attributes.get("json").is_some_and(|json| json == true);
                    let step = self.step(&field.schema, Want::Own(&own.schema, json));
                    (Some(own.name.as_str().into()), step.map_err(|misfit| misfit.within(&field.name))?)
                }
            });
        }
        let missing = own
            .fields
            .iter()
            .find(|own| own.default.is_none() && !writer.fields.iter().any(|field| is_for(own, &field.name)));
        match missing {
            Some(own) => Err(Misfit::new(expected(&own.schema), "no such field").within(&own.name)),
            None => Ok(Step::Record(fields)),
        }
    }

    /// Resolves a value that is skipped or converted to JSON completely.
    fn whole(&mut self, writer: &'r Schema, taken: bool) -> Result<usize, Misfit> {
        use Schema as S;
        let want = if taken { Want::Anything } else { Want::Nothing };
        let step = match writer {
            S::Null => Step::Null,
            S::Boolean => Step::Boolean,
            S::Int | S::Long | S::Date | S::TimeMillis | S::TimeMicros => Step::Integer,
            S::Float => Step::Float,
            S::Double => Step::Double,
            S::String | S::Uuid(UuidSchema::String) => Step::Text,
            S::TimestampMillis | S::LocalTimestampMillis => Step::Time(Unit::Millis),
            S::TimestampMicros | S::LocalTimestampMicros => Step::Time(Unit::Micros),
            S::TimestampNanos | S::LocalTimestampNanos => Step::Time(Unit::Nanos),
            S::Enum(symbols) => Step::Symbol(symbols.symbols.clone()),
            S::Array(array) => Step::List(self.step(&array.items, want)?),
            S::Map(map) => Step::Map(self.step(&map.types, want)?),
            S::Record(record) => return self.whole_record(record, taken),
            other if taken => {
                return Err(Misfit::new("a type that can be represented in JSON", describe(other)));
            }
            S::Bytes | S::BigDecimal | S::Uuid(UuidSchema::Bytes) => Step::Bytes,
            S::Fixed(fixed) | S::Duration(fixed) | S::Uuid(UuidSchema::Fixed(fixed)) => {
                Step::Fixed(fixed.size)
            }
            S::Decimal(decimal) => match &decimal.inner {
                apache_avro::schema::InnerDecimalSchema::Bytes => Step::Bytes,
                apache_avro::schema::InnerDecimalSchema::Fixed(fixed) => Step::Fixed(fixed.size),
            },
            // Unions and references were resolved before.
            S::Union(_) | S::Ref { .. } => return self.step(writer, want),
        };
        Ok(self.add(step))
    }

    fn whole_record(&mut self, record: &'r RecordSchema, taken: bool) -> Result<usize, Misfit> {
        let key = (record.name.clone(), taken);
        if let Some(step) = self.whole.get(&key) {
            return Ok(*step);
        }
        let place = self.add(Step::Null);
        self.whole.insert(key, place);
        let want = if taken { Want::Anything } else { Want::Nothing };
        let mut fields = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            let step = match self.step(&field.schema, want) {
                Err(_) if self.skips_unreadable => {
                    fields.push((None, self.step(&field.schema, Want::Nothing)?));
                    continue;
                }
                step => step.map_err(|misfit| misfit.within(&field.name))?,
            };
            fields.push((taken.then(|| field.name.as_str().into()), step));
        }
        if let Some(step) = self.steps.get_mut(place) {
            *step = Step::Record(fields);
        }
        Ok(place)
    }
}

/// Named types that these schemas define.
fn names<'s>(schemas: Vec<&'s Schema>) -> Result<NamesRef<'s>, Misfit> {
    match ResolvedSchema::new_with_schemata(schemas) {
        Ok(resolved) => Ok(resolved.get_names().clone()),
        Err(error) => Err(Misfit::new("a schema", error.to_string())),
    }
}

fn expected(own: &Schema) -> &'static str {
    match own {
        Schema::Null => "null",
        Schema::Boolean => "a boolean",
        Schema::Int | Schema::Long => "a whole number",
        Schema::Double => "a number",
        Schema::TimestampMicros => "a time",
        Schema::Array(_) => "a list",
        Schema::Map(_) => "a map",
        Schema::Record(_) | Schema::Ref { .. } => "a record",
        Schema::Union(union) => union.variants().last().map_or("a value", expected),
        _ => "a string",
    }
}

fn describe(schema: &Schema) -> String {
    match schema.name() {
        Some(name) => name.to_string(),
        None => format!("{:?}", apache_avro::schema::SchemaKind::from(schema)).to_lowercase(),
    }
}

fn place(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field}: ") }
}
