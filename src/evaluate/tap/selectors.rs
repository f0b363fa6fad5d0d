//! Reads what a tap evaluates its flags for: user, session and context of a record.
//!
//! ```text
//! {"customer": {"id": "c-7", "plan": "gold"}, …}  ──► user c-7, context {"plan":"gold","country":"DE"}
//!  header country: DE
//! ```
//!
//! A value is read in one pass, which follows all JSON pointers at once and validates the whole text. If a member is
//! repeated, the last one counts.

use std::borrow::Cow;
use std::ffi::{CStr, CString};

use crate::config::{Selector, TapConfig, TapWrite};
use crate::kafka::consumer::Record;
use crate::message::json::{JsonError, Kind, Scanner, Span, write_string};
use crate::message::request::{MAX_ID_BYTES, Refusal, RefusalCode, check_length};

/// Maximum nesting of a value that is read. Other values of the tap's source may be nested deeper.
const MAX_VALUE_DEPTH_LEVELS: usize = 128;
/// Maximum length of the context of one record as JSON, in bytes.
const MAX_CONTEXT_BYTES: usize = 1 << 20;

/// A record that selectors read: one of a batch, or one of a sample.
pub trait Readable<'r> {
    /// `None` for a null key.
    fn key(&self) -> Option<&'r [u8]>;
    /// The last header of this name.
    fn header(&self, name: &CStr) -> Option<&'r [u8]>;
    fn payload(&self) -> &'r [u8];
}

impl<'r> Readable<'r> for Record<'r> {
    fn key(&self) -> Option<&'r [u8]> {
        Record::key(self)
    }

    fn header(&self, name: &CStr) -> Option<&'r [u8]> {
        self.header_bytes(name)
    }

    fn payload(&self) -> &'r [u8] {
        Record::payload(self)
    }
}

/// The selectors of one tap.
#[derive(Debug)]
pub struct Selectors {
    user: Option<Place>,
    session: Option<Place>,
    /// Names as JSON strings, with the colon.
    context: Vec<(Vec<u8>, Place)>,
    names: Vec<String>,
    /// The pointers into values, as a tree.
    root: Node,
    slots: usize,
    /// Slot of the member that the tap writes.
    member: Option<usize>,
}

/// Part of a record that a text is read from.
#[derive(Debug)]
enum Place {
    Key,
    Header(CString),
    /// Index of the value that a pointer selects.
    Slot(usize),
}

#[derive(Debug, Default)]
struct Node {
    slot: Option<usize>,
    children: Vec<Child>,
}

#[derive(Debug)]
struct Child {
    name: String,
    /// The name as the index of a list.
    index: Option<usize>,
    node: Node,
}

/// The texts that were read from one record.
#[derive(Debug, Default)]
pub struct Selected<'r> {
    pub user: Option<Cow<'r, str>>,
    pub session: Option<Cow<'r, str>>,
    /// The existing member of the name that the tap writes.
    pub member: Option<&'r str>,
}

/// One selected text or value.
enum Found<'r> {
    Text(&'r str),
    Value(Span<'r>),
}

impl Selectors {
    pub fn new(tap: &TapConfig) -> Self {
        let mut selectors = Self {
            user: None,
            session: None,
            context: Vec::new(),
            names: tap.context.iter().map(|(name, _)| name.clone()).collect(),
            root: Node::default(),
            slots: 0,
            member: None,
        };
        selectors.user = tap.user.as_ref().map(|selector| selectors.place(selector));
        selectors.session = tap.session.as_ref().map(|selector| selectors.place(selector));
        for (name, selector) in &tap.context {
            let mut quoted = Vec::new();
            write_string(&mut quoted, name);
            quoted.push(b':');
            let place = selectors.place(selector);
            selectors.context.push((quoted, place));
        }
        if let TapWrite::Member(name) = &tap.write {
            selectors.member = Some(selectors.slot(std::slice::from_ref(name)));
        }
        selectors
    }

    fn place(&mut self, selector: &Selector) -> Place {
        match selector {
            Selector::Key => Place::Key,
            Selector::Header(name) => Place::Header(name.clone()),
            Selector::Value(parts) => Place::Slot(self.slot(parts)),
        }
    }

    fn slot(&mut self, parts: &[String]) -> usize {
        let node = parts.iter().fold(&mut self.root, |node, part| node.child(part));
        *node.slot.get_or_insert_with(|| {
            self.slots += 1;
            self.slots - 1
        })
    }

    /// Reads a record. `json` is its value as JSON, if a pointer or the encoder needs it. The context is written to
    /// `context` as JSON.
    pub fn read<'r>(
        &self,
        record: &impl Readable<'r>,
        json: Option<&'r [u8]>,
        context: &mut Vec<u8>,
    ) -> Result<Selected<'r>, Refusal> {
        let found = match json {
            Some(json) => self.scan(json)?,
            None => Vec::new(),
        };
        let find = |name: &str, place: &Place| find(record, &found, name, place);
        context.clear();
        context.push(b'{');
        for ((quoted, place), name) in self.context.iter().zip(&self.names) {
            let value = find(name, place)?;
            if value.is_none() {
                continue;
            }
            if context.len() > 1 {
                context.push(b',');
            }
            context.extend_from_slice(quoted);
            match value {
                Some(Found::Text(text)) => write_string(context, text),
                Some(Found::Value(span)) => context.extend_from_slice(span.compact().as_bytes()),
                None => {}
            }
            if context.len() > MAX_CONTEXT_BYTES {
                let message =
                    format!("expected at most {MAX_CONTEXT_BYTES} bytes in all attributes together");
                return Err(refusal(RefusalCode::TooLarge, "context", message));
            }
        }
        context.push(b'}');
        let id = |name: &str, place: &Option<Place>| match place {
            Some(place) => find(name, place).and_then(|found| identifier(name, found)),
            None => Ok(None),
        };
        Ok(Selected {
            user: id("user", &self.user)?,
            session: id("session", &self.session)?,
            member: self.member.and_then(|slot| found.get(slot)?.map(|span| span.text)),
        })
    }

    /// The selected values, by slot.
    fn scan<'r>(&self, json: &'r [u8]) -> Result<Vec<Option<Span<'r>>>, Refusal> {
        if json.is_empty() {
            let message = "expected JSON, got an empty value".to_owned();
            return Err(refusal(RefusalCode::Empty, "value", message));
        }
        let text = std::str::from_utf8(json).map_err(|error| {
            let message = format!("expected UTF-8, got an invalid byte at {}", error.valid_up_to());
            refusal(RefusalCode::NotUtf8, "value", message)
        })?;
        let mut found = vec![None; self.slots];
        let mut scanner = Scanner::new(text, MAX_VALUE_DEPTH_LEVELS);
        let scanned = self.root.scan(&mut scanner, &mut found).and_then(|kind| scanner.end().map(|()| kind));
        match scanned {
            Ok(kind) if self.member.is_some() && kind != Kind::Object => {
                let message = "expected a JSON object, to which a member can be added".to_owned();
                Err(refusal(RefusalCode::InvalidField, "value", message))
            }
            Ok(_) => Ok(found),
            Err(error) => {
                let code = match error {
                    JsonError::Syntax { .. } => RefusalCode::NotJson,
                    JsonError::TooDeep { .. } => RefusalCode::TooDeep,
                };
                Err(refusal(code, "value", error.to_string()))
            }
        }
    }
}

impl Node {
    fn child(&mut self, name: &str) -> &mut Self {
        let known = self.children.iter().position(|child| child.name == name);
        let at = known.unwrap_or_else(|| {
            // As in JSON pointers: no sign and no leading zero.
            let index = name.parse().ok().filter(|index: &usize| index.to_string() == name);
            self.children.push(Child { name: name.to_owned(), index, node: Self::default() });
            self.children.len() - 1
        });
        #[allow(clippy::indexing_slicing)] // The index was just found.
        &mut self.children[at].node
    }

    /// Reads the value at the scanner's position, and stores the selected values within it.
    fn scan<'r>(&self, scanner: &mut Scanner<'r>, found: &mut [Option<Span<'r>>]) -> Result<Kind, JsonError> {
        let kind = scanner.peek()?;
        self.forget(found);
        if let Some(place) = self.slot.and_then(|slot| found.get_mut(slot)) {
            *place = Some(scanner.clone().value()?);
        }
        let mut first = true;
        match kind {
            _ if self.children.is_empty() => drop(scanner.value()?),
            Kind::Object => {
                scanner.begin_object()?;
                while let Some(key) = scanner.next_key(&mut first)? {
                    match self.children.iter().find(|child| child.name == key) {
                        Some(child) => drop(child.node.scan(scanner, found)?),
                        None => drop(scanner.value()?),
                    }
                }
            }
            Kind::Array => {
                scanner.begin_array()?;
                for index in 0.. {
                    if !scanner.next_element(&mut first)? {
                        break;
                    }
                    match self.children.iter().find(|child| child.index == Some(index)) {
                        Some(child) => drop(child.node.scan(scanner, found)?),
                        None => drop(scanner.value()?),
                    }
                }
            }
            _ => drop(scanner.value()?),
        }
        Ok(kind)
    }

    /// Removes what an earlier member of the same name contained.
    fn forget(&self, found: &mut [Option<Span<'_>>]) {
        if let Some(place) = self.slot.and_then(|slot| found.get_mut(slot)) {
            *place = None;
        }
        self.children.iter().for_each(|child| child.node.forget(found));
    }
}

/// The text or value at `place`; `None` if it is absent or `null`.
fn find<'r>(
    record: &impl Readable<'r>,
    found: &[Option<Span<'r>>],
    name: &str,
    place: &Place,
) -> Result<Option<Found<'r>>, Refusal> {
    let bytes = match place {
        Place::Key => record.key(),
        Place::Header(header) => record.header(header),
        Place::Slot(slot) => {
            let span = found.get(*slot).copied().flatten();
            return Ok(span.filter(|span| span.kind != Kind::Null).map(Found::Value));
        }
    };
    let Some(bytes) = bytes else { return Ok(None) };
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Some(Found::Text(text))),
        Err(error) => {
            let message = format!("expected UTF-8, got an invalid byte at {}", error.valid_up_to());
            Err(refusal(RefusalCode::NotUtf8, name, message))
        }
    }
}

/// The text of a user or session. An empty one counts as absent.
fn identifier<'r>(name: &str, found: Option<Found<'r>>) -> Result<Option<Cow<'r, str>>, Refusal> {
    let text = match found {
        None => return Ok(None),
        Some(Found::Text(text)) => Cow::Borrowed(text),
        Some(Found::Value(span)) => match span.kind {
            Kind::String => span.as_string().unwrap_or_default(),
            Kind::Object | Kind::Array => {
                let message = "expected a string or a number, got an object or a list".to_owned();
                return Err(refusal(RefusalCode::InvalidField, name, message));
            }
            Kind::Null | Kind::Boolean | Kind::Number => Cow::Borrowed(span.text),
        },
    };
    check_length(name, text.len(), MAX_ID_BYTES)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

pub(super) fn refusal(code: RefusalCode, field: &str, message: String) -> Refusal {
    Refusal { code, field: field.to_owned(), message, wrong_type: false }
}
