//! The top-level fields of a request, as they stand, and what they add up to.

use std::borrow::Cow;

use crate::flag::{EvaluationContext, ValueType};
use crate::message::json::{JsonError, Kind, Scanner, Span, write_string};

use super::read::{members, present, scalar, string, strings};
use super::refusal::{check_flag_name, conflict, expected, kind_name, not_json, refuse, shorten, value_type};
use super::{Ask, Asks, MAX_DEPTH_LEVELS, Refusal, RefusalCode, Request};

/// Seed 002's names of an evaluation context, taken beside `user_id` too; they become properties.
const CONTEXT_FIELDS: [&str; 4] = ["group_id", "geographic_region", "device_type", "user_segment"];

/// The top-level fields as they stand.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
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
    pub(super) fn read(text: &'a str) -> Result<Self, Refusal> {
        let mut scanner = Scanner::new(text, MAX_DEPTH_LEVELS);
        let kind = scanner.peek().map_err(not_json)?;
        if kind != Kind::Object {
            // `null and void` begins like a value, but is none.
            scanner.value().and_then(|_| scanner.end()).map_err(not_json)?;
            return Err(refuse(
                RefusalCode::InvalidField,
                format!("request: expected an object, got {}", kind_name(kind)),
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
            "request_id" => self.once(0, &key).and(scalar(scanner, &key)).map(|v| self.request_id = v),
            "flag_name" => self.once(1, &key).and(string(scanner, &key)).map(|v| self.flag_name = v),
            "flag_names" => self.once(2, &key).and(strings(scanner, &key)).map(|v| self.flag_names = v),
            "user_id" => self.once(3, &key).and(scalar(scanner, &key)).map(|v| self.user_id = v),
            "session_id" => self.once(4, &key).and(scalar(scanner, &key)).map(|v| self.session_id = v),
            "context" => self.once(5, &key).and_then(|()| self.context(scanner)),
            "default_value" => self.once(6, &key).and(present(scanner)).map(|v| self.default_value = v),
            "default_values" => {
                self.once(7, &key).and(members(scanner, &key)).map(|v| self.default_values = v)
            }
            "value_type" => self
                .once(8, &key)
                .and(string(scanner, &key))
                .and_then(|text| self.value_type(text.as_deref())),
            "value_types" => self.once(9, &key).and(members(scanner, &key)).and_then(|v| self.value_types(v)),
            "environment" => self.once(10, &key).and(string(scanner, &key)).map(|v| self.environment = v),
            "requested_at" => self.once(11, &key).and(string(scanner, &key)).map(drop),
            other => match CONTEXT_FIELDS.iter().zip(12u32..).find(|(name, _)| **name == other) {
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
            return Err(refuse(RefusalCode::DuplicateField, format!("{key}: expected once, got twice")));
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
            Some(key) => Err(refuse(RefusalCode::DuplicateField, format!("{key}: expected once, got twice"))),
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
            let text = span.as_string().ok_or_else(|| expected(&field(), "a text", span.kind))?;
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
        read_context(scanner, &mut self.in_context).map_err(not_json)?;
        let length = start.len() - scanner.rest().len();
        let text = start.get(..length).unwrap_or_default();
        self.context = Some(Span { kind: Kind::Object, text });
        Ok(())
    }

    pub(super) fn into_request(mut self) -> Result<Request<'a>, Refusal> {
        let asks = self.asks()?;
        let context_json = self.context_json();
        let mut context = self.in_context;
        context.user_id = self.user_id.or(context.user_id);
        context.session_id = self.session_id.or(context.session_id);
        for (name, span) in self.beside {
            let text = text_of(span).filter(|_| context.property(name).is_none());
            context.properties.extend(text.map(|text| (Cow::Borrowed(name), text)));
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
        let added = if empty { added.trim_start_matches(',') } else { &added };
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
            let default = defaults.get(&flag).copied().filter(|span| span.kind != Kind::Null);
            let value_type = types.get(&flag).copied();
            Ok(Ask::new(flag, default, value_type))
        });
        asks.collect()
    }
}

/// What evaluation sees of a context's JSON text, such as an event echoes.
pub fn context(text: &str) -> Result<EvaluationContext<'_>, JsonError> {
    let mut scanner = Scanner::new(text, MAX_DEPTH_LEVELS);
    let mut context = EvaluationContext::default();
    read_context(&mut scanner, &mut context)?;
    scanner.end()?;
    Ok(context)
}

fn read_context<'a>(scanner: &mut Scanner<'a>, context: &mut EvaluationContext<'a>) -> Result<(), JsonError> {
    scanner.begin_object()?;
    let mut first = true;
    while let Some(key) = scanner.next_key(&mut first)? {
        if let Some(text) = text_of(scanner.value()?) {
            enter(context, key, text);
        }
    }
    Ok(())
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
