//! Completion of a context: removes what a caller may not say, and adds what the tables know and a flag reads.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use crate::flag::{CompiledFlag, EnvironmentFlags, EvaluationContext};
use crate::message::event::write_integer;
use crate::message::json::{Kind, Span, write_string};
use crate::message::request::{MAX_DEPTH_LEVELS, recorded_context, text_of as property_text};
use crate::privacy::Privacy;

use super::edit::{self, Place};
use super::{Attributes, Row, is_reserved};

/// Up to this sum in bytes, the largest possible row is counted for each table and answer.
const ROUGH_BYTES: usize = 1 << 20;

/// Completes the context of one subject, for any number of flags. Each row is looked up once.
#[derive(Debug)]
pub struct Joiner<'a> {
    attributes: &'a Attributes,
    context: &'a EvaluationContext<'a>,
    /// JSON text of the context.
    json: &'a str,
    /// The text without what the caller may not say; `None` if the caller says nothing of that kind.
    cleaned: OnceCell<Option<String>>,
    /// The row of each table.
    rows: Vec<OnceCell<Option<Arc<Row>>>>,
}

/// A completed context.
#[derive(Debug, PartialEq, Eq)]
pub struct Joined {
    /// JSON text of the context.
    pub json: String,
    /// JSON text of an object that names the attributes of each table, and the position of its row. `None` if nothing
    /// was added.
    pub used: Option<String>,
    /// Places of the added members; `None` if other members were removed, or a name has escapes.
    places: Option<Vec<Place>>,
}

/// Attribute of a row that is added to a context.
struct Added<'a> {
    name: &'a str,
    value: &'a str,
    table: usize,
}

impl Attributes {
    /// Completes the contexts of one subject. `json` is the text of `context`.
    pub fn joiner<'a>(&'a self, context: &'a EvaluationContext<'_>, json: &'a str) -> Joiner<'a> {
        let rows = self.tables.iter().map(|_| OnceCell::new()).collect();
        Joiner { attributes: self, context, json, cleaned: OnceCell::new(), rows }
    }

    /// Upper bound in bytes of what the tables add to the events of this many flags for each of the subjects. Rows are
    /// looked up only if it may be much.
    pub fn added_bytes<'s, 'c: 's>(
        &self,
        flags: usize,
        subjects: impl ExactSizeIterator<Item = (&'s EvaluationContext<'c>, &'s str)>,
    ) -> usize {
        let answers = flags.saturating_mul(subjects.len());
        let rough = answers.saturating_mul(self.max_row_bytes).saturating_mul(self.tables.len());
        if rough <= ROUGH_BYTES {
            return rough;
        }
        let rows = subjects.map(|(context, json)| self.joiner(context, json).row_bytes());
        rows.fold(0, usize::saturating_add).saturating_mul(flags)
    }
}

/// Whether the outcome of a flag may depend on a table: its rules, or those of a flag that it depends on, read a
/// property.
pub fn concern(flags: &EnvironmentFlags, flag: &CompiledFlag) -> bool {
    let mut concern = false;
    flags.each_property_read(flag, |name| concern |= !is_reserved(name));
    concern
}

impl<'a> Joiner<'a> {
    /// The completed context for one flag; `None` if the context stays as it is. `flags` are those of the environment.
    pub fn join(&self, flags: Option<&EnvironmentFlags>, flag: &str) -> Option<Joined> {
        let mut added: Vec<Added<'_>> = Vec::new();
        if let Some((flags, flag)) = flags.and_then(|flags| Some((flags, flags.get(flag)?))) {
            flags.each_property_read(flag, |name| {
                if !is_reserved(name) && !added.iter().any(|known| known.name == name) {
                    added.extend(self.added(name));
                }
            });
        }
        let cleaned = self.cleaned();
        if added.is_empty() {
            return cleaned.map(|json| Joined { json: json.to_owned(), used: None, places: None });
        }
        let members = added.iter().map(|added| (added.name, added.value));
        let (json, places) = edit::with(cleaned.unwrap_or(self.json), members);
        let places = places.filter(|_| cleaned.is_none());
        Some(Joined { json, used: Some(self.used(&added)), places })
    }

    /// Size of the subject's rows in bytes.
    fn row_bytes(&self) -> usize {
        (0..self.rows.len()).filter_map(|table| self.row(table)).map(|row| row.json.len()).sum()
    }

    /// The attribute, if a table decides it and has it.
    fn added<'n>(&'n self, name: &'n str) -> Option<Added<'n>> {
        if !self.attributes.wins(name) && self.context.property(name).is_some() {
            return None;
        }
        let (table, value) = self.value(name, self.rows.len())?;
        Some(Added { name, value: value.text, table })
    }

    /// The value in the first of the first `tables` tables that have one.
    fn value(&self, name: &str, tables: usize) -> Option<(usize, Span<'_>)> {
        (0..tables).find_map(|table| Some((table, self.row(table)?.get(name)?)))
    }

    fn row(&self, table: usize) -> Option<&Row> {
        let row = self.rows.get(table)?.get_or_init(|| {
            let key = self.key(table)?;
            self.attributes.tables.get(table)?.get(&key)
        });
        row.as_deref()
    }

    /// The key of the row in a table: a value of the caller, or else an attribute of an earlier table.
    fn key(&self, table: usize) -> Option<Cow<'_, str>> {
        let context = self.context;
        match self.attributes.tables.get(table)?.field() {
            "userId" => context.user_id.as_deref().map(Cow::Borrowed),
            "sessionId" => context.session_id.as_deref().map(Cow::Borrowed),
            field => {
                let of_caller = (!self.attributes.wins(field)).then(|| context.property(field)).flatten();
                let of_tables = || self.value(field, table).and_then(|(_, value)| text_of(value));
                of_caller.map(Cow::Borrowed).or_else(of_tables)
            }
        }
    }

    fn cleaned(&self) -> Option<&str> {
        let cleaned = self.cleaned.get_or_init(|| {
            let says = |name: &String| self.context.property(name).is_some();
            let is_forged = self.attributes.table_wins.iter().any(says);
            is_forged.then(|| edit::without(self.json, &|name| self.attributes.wins(name)))
        });
        cleaned.as_deref()
    }

    /// `{"user":{"partition":3,"offset":17,"names":["plan"]}}`
    fn used(&self, added: &[Added<'_>]) -> String {
        let mut out = b"{".to_vec();
        for (index, table) in self.attributes.tables.iter().enumerate() {
            let mut names = added.iter().filter(|added| added.table == index).map(|added| added.name);
            let (Some(row), Some(first)) = (self.row(index), names.next()) else { continue };
            if out.len() > 1 {
                out.push(b',');
            }
            write_string(&mut out, table.name());
            out.extend_from_slice(br#":{"partition":"#);
            write_integer(&mut out, row.partition);
            out.extend_from_slice(br#","offset":"#);
            write_integer(&mut out, row.offset);
            out.extend_from_slice(br#","names":["#);
            write_string(&mut out, first);
            for name in names {
                out.push(b',');
                write_string(&mut out, name);
            }
            out.extend_from_slice(b"]}");
        }
        out.push(b'}');
        // All parts are texts, so the whole is UTF-8.
        String::from_utf8(out).unwrap_or_default()
    }
}

/// A completed context as it is evaluated, and as it is written.
#[derive(Debug)]
pub struct Completed<'j> {
    pub context: EvaluationContext<'j>,
    /// JSON text of the context as it may be written to an event.
    pub written: Cow<'j, str>,
    /// See [`Joined::used`].
    pub used: Option<&'j str>,
}

impl Joined {
    /// The completed context of the subject of `original`, and what `privacy` leaves of it.
    pub fn complete<'j>(
        &'j self,
        original: &'j EvaluationContext<'_>,
        privacy: Option<&Privacy>,
    ) -> Completed<'j> {
        Completed {
            context: self.context(original),
            written: privacy.map_or(Cow::Borrowed(&self.json), |privacy| privacy.context(&self.json)),
            used: self.used.as_deref(),
        }
    }

    /// The context as its text says, for the subject of `original`.
    pub fn context<'j>(&'j self, original: &'j EvaluationContext<'_>) -> EvaluationContext<'j> {
        // A sorted list must stay sorted, so it is read again.
        match self.places.as_ref().filter(|_| !original.properties_sorted) {
            Some(places) => self.extended(original, places),
            None => self.read(original),
        }
    }

    /// The original context with the added properties, which it does not have.
    fn extended<'j>(
        &'j self,
        original: &'j EvaluationContext<'_>,
        places: &[Place],
    ) -> EvaluationContext<'j> {
        let borrowed = |text: &'j Option<Cow<'_, str>>| text.as_deref().map(Cow::Borrowed);
        let mut properties = Vec::with_capacity(original.properties.len() + places.len());
        let own = original.properties.iter();
        properties.extend(own.map(|(name, value)| (Cow::Borrowed(&**name), Cow::Borrowed(&**value))));
        properties.extend(places.iter().filter_map(|place| {
            let name = self.json.get(place.name.clone())?;
            let value = Span::parse(self.json.get(place.value.clone())?, MAX_DEPTH_LEVELS).ok()?;
            Some((Cow::Borrowed(name), property_text(value)?))
        }));
        let mut context = EvaluationContext {
            user_id: borrowed(&original.user_id),
            session_id: borrowed(&original.session_id),
            anonymous_id: borrowed(&original.anonymous_id),
            remote_address: borrowed(&original.remote_address),
            current_time: borrowed(&original.current_time),
            app_name: borrowed(&original.app_name),
            properties,
            properties_sorted: false,
        };
        context.sort_properties();
        context
    }

    /// The context read from its text.
    fn read<'j>(&'j self, original: &'j EvaluationContext<'_>) -> EvaluationContext<'j> {
        let (user, session) = (original.user_id.as_deref(), original.session_id.as_deref());
        // The text was built from valid objects, so it can be read.
        let mut context = recorded_context(&self.json, user, session).unwrap_or_default();
        context.anonymous_id = original.anonymous_id.as_deref().map(Cow::Borrowed).or(context.anonymous_id);
        context
    }
}

/// An attribute's value as the key of a row; `None` for lists and objects.
fn text_of(value: Span<'_>) -> Option<Cow<'_, str>> {
    match value.kind {
        Kind::String => value.as_string(),
        Kind::Number | Kind::Boolean => Some(Cow::Borrowed(value.text)),
        Kind::Null | Kind::Array | Kind::Object => None,
    }
}

#[cfg(test)]
#[path = "join/tests.rs"]
mod tests;
