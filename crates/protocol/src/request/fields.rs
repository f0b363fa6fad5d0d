//! Top-level fields of a request: reading, validation, and conversion into a request.

use std::borrow::Cow;

use crate::json::{Kind, Scanner, Span, write_string};
use flagstream_evaluation::{EvaluationContext, ValueType};

use super::context::{add_identity, given, read_context, text_of};
use super::limits::{MAX_ENVIRONMENT_BYTES, MAX_ID_BYTES, bounded, check_length};
use super::read::{members, present, scalar, string, strings};
use super::refusal::{Problems, check_flag_name, conflict, expected, not_json, refuse, shorten, value_type};
use super::{Ask, Asks, MAX_DEPTH_LEVELS, Refusal, RefusalCode, Request, Subject};

/// Additional names of context properties that are accepted next to `user_id`.
const CONTEXT_FIELDS: [&str; 4] = ["group_id", "geographic_region", "device_type", "user_segment"];

/// OpenFeature's name of the user, inside a context.
const TARGETING_KEY: &str = "targetingKey";

/// Callback for keys that are not fields of a request. It consumes the value, or returns `None` without
/// consuming it.
pub(super) type More<'m, 'a> = dyn FnMut(&str, &mut Scanner<'a>) -> Option<Result<(), Refusal>> + 'm;

/// Defaults and requested types of flags.
#[derive(Debug, Default)]
pub(super) struct Expectations<'a> {
    defaults: ahash::AHashMap<Cow<'a, str>, Span<'a>>,
    types: ahash::AHashMap<Cow<'a, str>, ValueType>,
}

impl<'a> Expectations<'a> {
    pub(super) fn ask<'f>(&self, flag: Cow<'f, str>) -> Ask<'f>
    where
        'a: 'f,
    {
        let default = self.defaults.get(&*flag).copied().filter(|span| span.kind != Kind::Null);
        let value_type = self.types.get(&*flag).copied();
        Ask::new(flag, default, value_type)
    }
}

/// Top-level fields before they are combined into a request.
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
    /// Reads the whole text. `more` is called for keys that are not fields of a request.
    pub(super) fn read(
        text: &'a str,
        more: &mut More<'_, 'a>,
        problems: &mut Problems,
    ) -> Result<Self, Refusal> {
        let mut scanner = Scanner::new(text, MAX_DEPTH_LEVELS);
        let kind = scanner.peek().map_err(not_json)?;
        if kind != Kind::Object {
            // A text such as `null and void` begins like a value but is not valid JSON.
            scanner.value().and_then(|_| scanner.end()).map_err(not_json)?;
            return Err(expected("request", "an object", kind));
        }
        let fields = Self::object(&mut scanner, more, problems)?;
        scanner.end().map_err(not_json)?;
        Ok(fields)
    }

    /// Reads an object at the scanner's position.
    pub(super) fn object(
        scanner: &mut Scanner<'a>,
        more: &mut More<'_, 'a>,
        problems: &mut Problems,
    ) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        scanner.begin_object().map_err(not_json)?;
        let mut first = true;
        while let Some(key) = scanner.next_key(&mut first).map_err(not_json)? {
            let value = scanner.clone();
            if let Err(refusal) = fields.field(key, scanner, more) {
                problems.note(refusal)?;
                *scanner = value;
                scanner.value().map_err(not_json)?;
            }
        }
        problems.take(fields.refuse_repeated_unknown())?;
        Ok(fields)
    }

    fn field(
        &mut self,
        key: Cow<'a, str>,
        scanner: &mut Scanner<'a>,
        more: &mut More<'_, 'a>,
    ) -> Result<(), Refusal> {
        match key.as_ref() {
            "request_id" => self.once(0, &key).and(scalar(scanner, &key)).map(|v| self.request_id = v),
            "flag_name" => self.once(1, &key).and(string(scanner, &key)).map(|v| self.flag_name = v),
            "flag_names" => self.once(2, &key).and(strings(scanner, &key)).map(|v| self.flag_names = v),
            "user_id" => self
                .once(3, &key)
                .and(scalar(scanner, &key))
                .and_then(|v| bounded(&key, v, MAX_ID_BYTES))
                .map(|v| self.user_id = given(v)),
            "session_id" => self
                .once(4, &key)
                .and(scalar(scanner, &key))
                .and_then(|v| bounded(&key, v, MAX_ID_BYTES))
                .map(|v| self.session_id = given(v)),
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
            "environment" => self
                .once(10, &key)
                .and(string(scanner, &key))
                .and_then(|v| bounded(&key, v, MAX_ENVIRONMENT_BYTES))
                .map(|v| self.environment = v),
            "requested_at" => self.once(11, &key).and(string(scanner, &key)).map(drop),
            other => match CONTEXT_FIELDS.iter().zip(12u32..).find(|(name, _)| **name == other) {
                Some((name, bit)) => self.once(bit, &key).and(present(scanner)).map(|span| {
                    self.beside.extend(span.map(|span| (*name, span)));
                }),
                None => {
                    let taken = more(&key, scanner);
                    self.unknown.push(key);
                    taken.unwrap_or_else(|| scanner.value().map(drop).map_err(not_json))
                }
            },
        }
    }

    fn once(&mut self, bit: u32, key: &str) -> Result<(), Refusal> {
        let mask = 1 << bit;
        if self.seen & mask != 0 {
            return Err(twice(key));
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
            Some(key) => Err(twice(&key)),
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
            let text = span.as_string().ok_or_else(|| expected(&field(), "a string", span.kind))?;
            let kind = value_type(&field(), &text)?;
            Ok((flag, kind))
        });
        self.value_types = Some(typed.collect::<Result<_, Refusal>>()?);
        Ok(())
    }

    /// Reads the context of a body in OpenFeature's protocol. A repeated context is refused.
    pub(super) fn only_context(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Refusal> {
        self.once(5, "context")?;
        self.context(scanner)
    }

    /// Subject of a body in OpenFeature's protocol: the targeting key is the user.
    pub(super) fn into_openfeature_subject(self) -> Result<Subject<'a>, Refusal> {
        let key = self.context.map(|span| last_member(span.text, TARGETING_KEY)).transpose()?.flatten();
        if let Some(Span { kind: kind @ (Kind::Object | Kind::Array), .. }) = key {
            return Err(expected("context.targetingKey", "a string", kind));
        }
        let mut subject = self.into_subject();
        let key = subject.context.property(TARGETING_KEY).filter(|key| !key.is_empty());
        if let Some(key) = key.map(str::to_owned) {
            check_length("context.targetingKey", key.len(), MAX_ID_BYTES)?;
            subject.context.user_id = Some(Cow::Owned(key));
        }
        Ok(subject)
    }

    /// Reads the context in one pass: its text for events, and its members for the engine.
    pub(super) fn context(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Refusal> {
        let kind = scanner.peek().map_err(not_json)?;
        if kind == Kind::Null {
            return scanner.value().map(drop).map_err(not_json);
        }
        if kind != Kind::Object {
            return Err(expected("context", "an object", kind));
        }
        let start = scanner.rest();
        read_context(scanner, &mut self.in_context).map_err(not_json)?;
        let ids = [
            ("context.userId", &self.in_context.user_id),
            ("context.sessionId", &self.in_context.session_id),
        ];
        for (field, id) in ids {
            check_length(field, id.as_ref().map_or(0, |id| id.len()), MAX_ID_BYTES)?;
        }
        let length = start.len() - scanner.rest().len();
        let text = start.get(..length).unwrap_or_default();
        self.context = Some(Span { kind: Kind::Object, text });
        Ok(())
    }

    pub(super) fn into_request(mut self) -> Result<Request<'a>, Refusal> {
        let asks = self.asks()?;
        let (request_id, environment) = self.take_names();
        let Subject { context, context_json } = self.into_subject();
        Ok(Request { request_id, environment, asks, context, context_json })
    }

    /// The subject that the answers are for.
    pub(super) fn into_subject(self) -> Subject<'a> {
        let context_json = self.context_json();
        let mut context = self.in_context;
        add_identity(&mut context, self.user_id, self.session_id);
        for (name, span) in self.beside {
            let text = text_of(span).filter(|_| context.property(name).is_none());
            if let Some(text) = text {
                context.properties.push((Cow::Borrowed(name), text));
                context.properties_sorted = false;
            }
        }
        context.sort_properties();
        Subject { context, context_json }
    }

    pub(super) fn take_names(&mut self) -> (Option<Cow<'a, str>>, Option<Cow<'a, str>>) {
        (self.request_id.take(), self.environment.take())
    }

    pub(super) fn names_no_flag(&self) -> bool {
        self.flag_name.is_none()
    }

    pub(super) fn names_nothing(&self) -> bool {
        self.flag_name.is_none() && self.flag_names.is_none()
    }

    /// Sets the type of the answer. A `default_value` that is no boolean, or a `value_type` that differs, is
    /// refused.
    pub(super) fn expect_type(&mut self, of: ValueType, problems: &mut Problems) -> Result<(), Refusal> {
        let default = self.default_value.filter(|default| default.kind != Kind::Boolean);
        if let Some(default) = default.filter(|_| of == ValueType::Boolean) {
            problems.note(expected("default_value", "a boolean", default.kind))?;
        }
        if let Some(asked) = self.value_type.filter(|asked| *asked != of) {
            let message = format!("expected {} or no type, got {}", of.as_str(), asked.as_str());
            problems.note(refuse(RefusalCode::InvalidField, "value_type", message))?;
        }
        self.value_type = Some(of);
        Ok(())
    }

    /// Name of a field that describes the subject, if the request has one.
    pub(super) fn subject_field(&self) -> Option<&'static str> {
        let given = [
            ("user_id", self.user_id.is_some()),
            ("session_id", self.session_id.is_some()),
            ("context", self.context.is_some()),
        ];
        let given = given.into_iter().find_map(|(name, given)| given.then_some(name));
        given.or(self.beside.first().map(|(name, _)| *name))
    }

    /// JSON text of the context with the additional fields of the request, so that the event contains
    /// everything that evaluation used.
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

    pub(super) fn asks(&mut self) -> Result<Asks<'a>, Refusal> {
        match (self.flag_name.take(), self.flag_names.take()) {
            (Some(_), Some(_)) => Err(conflict("flag_name", "flag_names")),
            (None, None) => {
                let message = "`flag_name` or `flag_names` is required";
                Err(refuse(RefusalCode::MissingField, "flag_name", message.into()))
            }
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
            let message = "expected at least one flag, got an empty list";
            return Err(refuse(RefusalCode::MissingField, "flag_names", message.into()));
        }
        if self.default_value.is_some() {
            return Err(conflict("flag_names", "default_value"));
        }
        if self.value_type.is_some() {
            return Err(conflict("flag_names", "value_type"));
        }
        let expectations = self.expectations();
        let asks = flags.into_iter().enumerate().map(|(index, flag)| {
            if check_flag_name("", &flag).is_err() {
                check_flag_name(&format!("flag_names[{index}]"), &flag)?;
            }
            Ok(expectations.ask(flag))
        });
        asks.collect()
    }

    /// Defaults and requested types by flag.
    pub(super) fn expectations(&mut self) -> Expectations<'a> {
        Expectations {
            defaults: self.default_values.take().into_iter().flatten().collect(),
            types: self.value_types.take().into_iter().flatten().collect(),
        }
    }
}

/// The last member of this name in an object's JSON text.
fn last_member<'a>(object: &'a str, name: &str) -> Result<Option<Span<'a>>, Refusal> {
    let mut scanner = Scanner::new(object, MAX_DEPTH_LEVELS);
    let (mut found, mut first) = (None, true);
    scanner.begin_object().map_err(not_json)?;
    while let Some(key) = scanner.next_key(&mut first).map_err(not_json)? {
        let value = scanner.value().map_err(not_json)?;
        if key == name {
            found = Some(value);
        }
    }
    Ok(found)
}

fn twice(key: &str) -> Refusal {
    refuse(RefusalCode::DuplicateField, key, "expected the field once; it is given twice".into())
}
