//! An evaluation request, decoded in one pass and borrowed from the record.
//!
//! Everything a service may get wrong ends in a [`Refusal`] that names the field and what was expected; it
//! becomes the `error-code` and `error-message` of a dead letter. An unknown flag or environment is not wrong.

use std::borrow::Cow;

use crate::flag::{DefaultValue, EvaluationContext, ValueType};

use super::json::{JsonError, Kind, Scanner, Span, write_string};

/// Longest request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 1024 * 1024;
/// Deepest nesting of objects and lists, the request itself included.
pub const MAX_DEPTH_LEVELS: usize = 32;
/// Most flags in one request.
pub const MAX_FLAGS_COUNT: usize = 1_000;
/// Longest flag name, in bytes of UTF-8.
pub const MAX_FLAG_NAME_BYTES: usize = 255;

/// Seed 002's names of an evaluation context, taken beside `user_id` too; they become properties.
const CONTEXT_FIELDS: [&str; 4] = ["group_id", "geographic_region", "device_type", "user_segment"];

/// What a service asks.
#[derive(Debug)]
pub struct Request<'a> {
    pub request_id: Option<Cow<'a, str>>,
    pub environment: Option<Cow<'a, str>>,
    pub asks: Asks<'a>,
    pub context: EvaluationContext<'a>,
    /// JSON text of the context, as it is echoed in events.
    pub context_json: Cow<'a, str>,
}

/// One flag asked for.
#[derive(Debug)]
pub struct Ask<'a> {
    pub flag: Cow<'a, str>,
    pub default: Option<DefaultValue<'a>>,
    /// JSON text of the default, as it is echoed in events.
    pub default_json: Option<&'a str>,
    pub value_type: ValueType,
}

/// The flags asked for, in the order asked. A request for one flag allocates nothing here.
#[derive(Debug)]
pub enum Asks<'a> {
    One(Ask<'a>),
    Many(Vec<Ask<'a>>),
}

/// Why a request is refused; the code is stable, the message is for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}", code = code.as_str())]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
}

/// The `error-code` of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    Empty,
    NotUtf8,
    NotJson,
    TooLarge,
    TooDeep,
    TooManyFlags,
    MissingField,
    InvalidField,
    DuplicateField,
    ConflictingFields,
    /// The broker refused the result for a reason other than its size.
    Refused,
}

impl RefusalCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "EMPTY",
            Self::NotUtf8 => "NOT_UTF8",
            Self::NotJson => "NOT_JSON",
            Self::TooLarge => "TOO_LARGE",
            Self::TooDeep => "TOO_DEEP",
            Self::TooManyFlags => "TOO_MANY_FLAGS",
            Self::MissingField => "MISSING_FIELD",
            Self::InvalidField => "INVALID_FIELD",
            Self::DuplicateField => "DUPLICATE_FIELD",
            Self::ConflictingFields => "CONFLICTING_FIELDS",
            Self::Refused => "REFUSED",
        }
    }
}

impl<'a> Asks<'a> {
    pub fn as_slice(&self) -> &[Ask<'a>] {
        match self {
            Self::One(ask) => std::slice::from_ref(ask),
            Self::Many(asks) => asks,
        }
    }
}

impl<'a> Request<'a> {
    /// Decodes the value of a record.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Refusal> {
        if payload.is_empty() {
            return Err(refuse(
                RefusalCode::Empty,
                "expected a JSON object, got an empty value".into(),
            ));
        }
        if payload.len() > MAX_REQUEST_BYTES {
            let message = format!(
                "expected at most {MAX_REQUEST_BYTES} bytes, got {}",
                payload.len()
            );
            return Err(refuse(RefusalCode::TooLarge, message));
        }
        let text = std::str::from_utf8(payload).map_err(|error| {
            refuse(
                RefusalCode::NotUtf8,
                format!("expected UTF-8, got an invalid byte at {}", error.valid_up_to()),
            )
        })?;
        Fields::read(text)?.into_request()
    }
}

/// The top-level fields as they stand.
#[derive(Debug, Default)]
struct Fields<'a> {
    seen: u32,
    unknown: Vec<Cow<'a, str>>,
    request_id: Option<Cow<'a, str>>,
    environment: Option<Cow<'a, str>>,
    flag_name: Option<Cow<'a, str>>,
    flag_names: Option<Vec<Cow<'a, str>>>,
    default_value: Option<Span<'a>>,
    default_values: Option<Vec<(Cow<'a, str>, Span<'a>)>>,
    value_type: Option<ValueType>,
    value_types: Option<Vec<(Cow<'a, str>, ValueType)>>,
    user_id: Option<Cow<'a, str>>,
    session_id: Option<Cow<'a, str>>,
    context: Option<Span<'a>>,
    in_context: EvaluationContext<'a>,
    beside: Vec<(&'static str, Span<'a>)>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, Refusal> {
        let mut scanner = Scanner::new(text, MAX_DEPTH_LEVELS);
        let kind = scanner.peek().map_err(not_json)?;
        if kind != Kind::Object {
            return Err(refuse(
                RefusalCode::InvalidField,
                format!("request: expected an object, got {}", name(kind)),
            ));
        }
        let mut fields = Self::default();
        scanner.begin_object().map_err(not_json)?;
        let mut first = true;
        while let Some(key) = scanner.next_key(&mut first).map_err(not_json)? {
            fields.field(key, &mut scanner)?;
        }
        scanner.end().map_err(not_json)?;
        fields.refuse_repeated_unknown()?;
        Ok(fields)
    }

    fn field(&mut self, key: Cow<'a, str>, scanner: &mut Scanner<'a>) -> Result<(), Refusal> {
        match key.as_ref() {
            "request_id" => self
                .once(0, &key)
                .and(scalar(scanner, &key))
                .map(|v| self.request_id = v),
            "flag_name" => self
                .once(1, &key)
                .and(string(scanner, &key))
                .map(|v| self.flag_name = v),
            "flag_names" => self
                .once(2, &key)
                .and(strings(scanner, &key))
                .map(|v| self.flag_names = v),
            "user_id" => self
                .once(3, &key)
                .and(scalar(scanner, &key))
                .map(|v| self.user_id = v),
            "session_id" => self
                .once(4, &key)
                .and(scalar(scanner, &key))
                .map(|v| self.session_id = v),
            "context" => self.once(5, &key).and_then(|()| self.context(scanner)),
            "default_value" => self
                .once(6, &key)
                .and(present(scanner))
                .map(|v| self.default_value = v),
            "default_values" => self
                .once(7, &key)
                .and(members(scanner, &key))
                .map(|v| self.default_values = v),
            "value_type" => self
                .once(8, &key)
                .and(string(scanner, &key))
                .and_then(|text| self.value_type(text.as_deref())),
            "value_types" => self
                .once(9, &key)
                .and(members(scanner, &key))
                .and_then(|v| self.value_types(v)),
            "environment" => self
                .once(10, &key)
                .and(string(scanner, &key))
                .map(|v| self.environment = v),
            "requested_at" => self.once(11, &key).and(string(scanner, &key)).map(drop),
            other => match CONTEXT_FIELDS
                .iter()
                .zip(12u32..)
                .find(|(name, _)| **name == other)
            {
                Some((name, bit)) => self.once(bit, &key).and(present(scanner)).map(|span| {
                    self.beside.extend(span.map(|span| (*name, span)));
                }),
                None => {
                    self.unknown.push(key);
                    scanner.value().map(drop).map_err(not_json)
                }
            },
        }
    }

    fn once(&mut self, bit: u32, key: &str) -> Result<(), Refusal> {
        let mask = 1 << bit;
        if self.seen & mask != 0 {
            return Err(refuse(
                RefusalCode::DuplicateField,
                format!("{key}: expected once, got twice"),
            ));
        }
        self.seen |= mask;
        Ok(())
    }

    fn refuse_repeated_unknown(&mut self) -> Result<(), Refusal> {
        self.unknown.sort_unstable();
        let repeated = self.unknown.windows(2).find_map(|pair| match pair {
            [a, b] if a == b => Some(shorten(a)),
            _ => None,
        });
        match repeated {
            Some(key) => Err(refuse(
                RefusalCode::DuplicateField,
                format!("{key}: expected once, got twice"),
            )),
            None => Ok(()),
        }
    }

    fn value_type(&mut self, text: Option<&str>) -> Result<(), Refusal> {
        self.value_type = text.map(|text| value_type("value_type", text)).transpose()?;
        Ok(())
    }

    fn value_types(&mut self, members: Option<Vec<(Cow<'a, str>, Span<'a>)>>) -> Result<(), Refusal> {
        let Some(members) = members else { return Ok(()) };
        let typed = members.into_iter().map(|(flag, span)| {
            let field = || format!("value_types.{}", shorten(&flag));
            let text = span
                .as_string()
                .ok_or_else(|| expected(&field(), "a text", span.kind))?;
            let kind = value_type(&field(), &text)?;
            Ok((flag, kind))
        });
        self.value_types = Some(typed.collect::<Result<_, Refusal>>()?);
        Ok(())
    }

    /// One pass over the context: its text for the echo, its entries for the engine.
    fn context(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Refusal> {
        let kind = scanner.peek().map_err(not_json)?;
        if kind == Kind::Null {
            return scanner.value().map(drop).map_err(not_json);
        }
        if kind != Kind::Object {
            return Err(expected("context", "an object", kind));
        }
        let start = scanner.rest();
        scanner.begin_object().map_err(not_json)?;
        let mut first = true;
        while let Some(key) = scanner.next_key(&mut first).map_err(not_json)? {
            let value = scanner.value().map_err(not_json)?;
            if let Some(text) = text_of(value) {
                enter(&mut self.in_context, key, text);
            }
        }
        let length = start.len() - scanner.rest().len();
        let text = start.get(..length).unwrap_or_default();
        self.context = Some(Span {
            kind: Kind::Object,
            text,
        });
        Ok(())
    }

    fn into_request(mut self) -> Result<Request<'a>, Refusal> {
        let asks = self.asks()?;
        let context_json = self.context_json();
        let mut context = self.in_context;
        context.user_id = self.user_id.or(context.user_id);
        context.session_id = self.session_id.or(context.session_id);
        for (name, span) in self.beside {
            let text = text_of(span).filter(|_| context.property(name).is_none());
            context
                .properties
                .extend(text.map(|text| (Cow::Borrowed(name), text)));
        }
        Ok(Request {
            request_id: self.request_id,
            environment: self.environment,
            asks,
            context,
            context_json,
        })
    }

    /// The context with what stood beside it, so that the event holds all that evaluation saw.
    fn context_json(&self) -> Cow<'a, str> {
        let given = self.context.map_or("{}", |span| span.text);
        let mut added = Vec::new();
        for (name, span) in &self.beside {
            if self.in_context.property(name).is_none() {
                added.push(b',');
                write_string(&mut added, name);
                added.push(b':');
                added.extend_from_slice(span.text.as_bytes());
            }
        }
        let Some(open) = given.strip_suffix('}').filter(|_| !added.is_empty()) else {
            return Cow::Borrowed(given);
        };
        let added = String::from_utf8_lossy(&added);
        let empty = open.trim_end() == "{";
        let added = if empty {
            added.trim_start_matches(',')
        } else {
            &added
        };
        Cow::Owned(format!("{open}{added}}}"))
    }

    fn asks(&mut self) -> Result<Asks<'a>, Refusal> {
        match (self.flag_name.take(), self.flag_names.take()) {
            (Some(_), Some(_)) => Err(conflict("flag_name", "flag_names")),
            (None, None) => Err(refuse(
                RefusalCode::MissingField,
                "flag_name: expected a text, or flag_names with a list of texts".into(),
            )),
            (Some(flag), None) => self.one(flag).map(Asks::One),
            (None, Some(flags)) => self.many(flags).map(Asks::Many),
        }
    }

    fn one(&mut self, flag: Cow<'a, str>) -> Result<Ask<'a>, Refusal> {
        check_flag_name("flag_name", &flag)?;
        if self.default_values.is_some() {
            return Err(conflict("flag_name", "default_values"));
        }
        if self.value_types.is_some() {
            return Err(conflict("flag_name", "value_types"));
        }
        Ok(Ask::new(flag, self.default_value, self.value_type))
    }

    fn many(&mut self, flags: Vec<Cow<'a, str>>) -> Result<Vec<Ask<'a>>, Refusal> {
        if flags.is_empty() {
            let message = "flag_names: expected at least one flag, got an empty list";
            return Err(refuse(RefusalCode::MissingField, message.into()));
        }
        if self.default_value.is_some() {
            return Err(conflict("flag_names", "default_value"));
        }
        if self.value_type.is_some() {
            return Err(conflict("flag_names", "value_type"));
        }
        let defaults: ahash::AHashMap<_, _> = self.default_values.take().into_iter().flatten().collect();
        let types: ahash::AHashMap<_, _> = self.value_types.take().into_iter().flatten().collect();
        let asks = flags.into_iter().enumerate().map(|(index, flag)| {
            check_flag_name(&format!("flag_names[{index}]"), &flag)?;
            let default = defaults
                .get(&flag)
                .copied()
                .filter(|span| span.kind != Kind::Null);
            let value_type = types.get(&flag).copied();
            Ok(Ask::new(flag, default, value_type))
        });
        asks.collect()
    }
}

impl<'a> Ask<'a> {
    fn new(flag: Cow<'a, str>, default: Option<Span<'a>>, value_type: Option<ValueType>) -> Self {
        let parsed = default.and_then(default_of);
        let value_type = value_type.unwrap_or_else(|| ValueType::of_default(parsed.as_ref()));
        Self {
            flag,
            default: parsed,
            default_json: default.map(|span| span.text),
            value_type,
        }
    }
}

fn default_of(span: Span<'_>) -> Option<DefaultValue<'_>> {
    match span.kind {
        Kind::Null => None,
        Kind::Boolean => Some(DefaultValue::Boolean(span.text == "true")),
        Kind::Number => Some(DefaultValue::Number(span.text)),
        Kind::String => span.as_string().map(DefaultValue::String),
        Kind::Object | Kind::Array => Some(DefaultValue::Json(span.text)),
    }
}

/// A value as the engine's operators see it: text as it is, numbers and booleans as their JSON text, lists
/// and objects as compact JSON; `null` is absent.
fn text_of(span: Span<'_>) -> Option<Cow<'_, str>> {
    match span.kind {
        Kind::Null => None,
        Kind::String => span.as_string(),
        Kind::Boolean | Kind::Number => Some(Cow::Borrowed(span.text)),
        Kind::Object | Kind::Array => Some(span.compact()),
    }
}

/// Unleash's own context fields go to their places, everything else is a property.
fn enter<'a>(context: &mut EvaluationContext<'a>, key: Cow<'a, str>, text: Cow<'a, str>) {
    match key.as_ref() {
        "userId" => context.user_id = Some(text),
        "sessionId" => context.session_id = Some(text),
        "remoteAddress" => context.remote_address = Some(text),
        "currentTime" => context.current_time = Some(text),
        "appName" => context.app_name = Some(text),
        // The environment is the request's.
        "environment" => {}
        _ => context.properties.push((key, text)),
    }
}

fn present<'a>(scanner: &mut Scanner<'a>) -> Result<Option<Span<'a>>, Refusal> {
    let span = scanner.value().map_err(not_json)?;
    Ok(Some(span).filter(|span| span.kind != Kind::Null))
}

fn string<'a>(scanner: &mut Scanner<'a>, field: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
    match scanner.peek().map_err(not_json)? {
        Kind::String => scanner.string().map(Some).map_err(not_json),
        Kind::Null => scanner.value().map(|_| None).map_err(not_json),
        other => Err(expected(field, "a text", other)),
    }
}

/// A text; a number or a boolean is taken as its JSON text.
fn scalar<'a>(scanner: &mut Scanner<'a>, field: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
    match scanner.peek().map_err(not_json)? {
        Kind::Number | Kind::Boolean => scanner
            .value()
            .map(|span| Some(Cow::Borrowed(span.text)))
            .map_err(not_json),
        _ => string(scanner, field),
    }
}

fn strings<'a>(scanner: &mut Scanner<'a>, field: &str) -> Result<Option<Vec<Cow<'a, str>>>, Refusal> {
    match scanner.peek().map_err(not_json)? {
        Kind::Array => {}
        Kind::Null => return scanner.value().map(|_| None).map_err(not_json),
        other => return Err(expected(field, "a list of texts", other)),
    }
    scanner.begin_array().map_err(not_json)?;
    let (mut texts, mut first) = (Vec::new(), true);
    while scanner.next_element(&mut first).map_err(not_json)? {
        if texts.len() == MAX_FLAGS_COUNT {
            let message = format!("{field}: expected at most {MAX_FLAGS_COUNT} flags, got more");
            return Err(refuse(RefusalCode::TooManyFlags, message));
        }
        match scanner.peek().map_err(not_json)? {
            Kind::String => texts.push(scanner.string().map_err(not_json)?),
            other => return Err(expected(&format!("{field}[{}]", texts.len()), "a text", other)),
        }
    }
    Ok(Some(texts))
}

type Members<'a> = Vec<(Cow<'a, str>, Span<'a>)>;

fn members<'a>(scanner: &mut Scanner<'a>, field: &str) -> Result<Option<Members<'a>>, Refusal> {
    match scanner.peek().map_err(not_json)? {
        Kind::Object => {}
        Kind::Null => return scanner.value().map(|_| None).map_err(not_json),
        other => return Err(expected(field, "an object with one member per flag", other)),
    }
    scanner.begin_object().map_err(not_json)?;
    let (mut members, mut first) = (Vec::new(), true);
    while let Some(key) = scanner.next_key(&mut first).map_err(not_json)? {
        members.push((key, scanner.value().map_err(not_json)?));
    }
    Ok(Some(members))
}

fn value_type(field: &str, text: &str) -> Result<ValueType, Refusal> {
    text.parse().map_err(|_| {
        let expected = "boolean, string, integer, float, number or object";
        refuse(
            RefusalCode::InvalidField,
            format!("{field}: expected {expected}, got \"{}\"", shorten(text)),
        )
    })
}

fn check_flag_name(field: &str, flag: &str) -> Result<(), Refusal> {
    if (1..=MAX_FLAG_NAME_BYTES).contains(&flag.len()) {
        return Ok(());
    }
    let message = format!(
        "{field}: expected 1 to {MAX_FLAG_NAME_BYTES} bytes, got {}",
        flag.len()
    );
    Err(refuse(RefusalCode::InvalidField, message))
}

fn not_json(error: JsonError) -> Refusal {
    let code = match error {
        JsonError::Syntax { .. } => RefusalCode::NotJson,
        JsonError::TooDeep { .. } => RefusalCode::TooDeep,
    };
    refuse(code, error.to_string())
}

fn expected(field: &str, expected: &str, got: Kind) -> Refusal {
    refuse(
        RefusalCode::InvalidField,
        format!("{field}: expected {expected}, got {}", name(got)),
    )
}

fn conflict(one: &str, other: &str) -> Refusal {
    refuse(
        RefusalCode::ConflictingFields,
        format!("{one}: expected without {other}, got both"),
    )
}

fn refuse(code: RefusalCode, message: String) -> Refusal {
    Refusal { code, message }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Null => "null",
        Kind::Boolean => "a boolean",
        Kind::Number => "a number",
        Kind::String => "a text",
        Kind::Object => "an object",
        Kind::Array => "a list",
    }
}

/// At most 60 characters of a stranger's text, for messages.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
