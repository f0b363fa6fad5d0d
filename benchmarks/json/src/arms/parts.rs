//! Assembly of a request from the fields that a reader of JSON has found, with the service's rules.

use std::borrow::Cow;

use ahash::AHashMap;
use flagstream_evaluation::context::SESSION_PROPERTY;
use flagstream_evaluation::{DefaultValue, EvaluationContext, ValueType};
use flagstream_protocol::json::{Kind, Span};
use flagstream_protocol::request::{
    Ask, Asks, MAX_ENVIRONMENT_BYTES, MAX_FLAG_NAME_BYTES, MAX_FLAGS_COUNT, MAX_ID_BYTES, MAX_REQUEST_BYTES,
    Request, check_length, is_generated_session,
};

/// Decodes a JSON string with escapes, quotes included; `None` if it is invalid.
pub type Unescape = fn(&str) -> Option<String>;

/// Top-level fields of a request. `None` is an absent field or `null`.
#[derive(Default)]
pub struct Parts<'a> {
    pub request_id: Option<Cow<'a, str>>,
    pub environment: Option<Cow<'a, str>>,
    pub flag_name: Option<Cow<'a, str>>,
    pub flag_names: Option<Vec<Cow<'a, str>>>,
    /// JSON text.
    pub default_value: Option<&'a str>,
    /// JSON text for each flag.
    pub default_values: Option<Vec<(Cow<'a, str>, &'a str)>>,
    pub value_type: Option<Cow<'a, str>>,
    /// JSON text for each flag.
    pub value_types: Option<Vec<(Cow<'a, str>, &'a str)>>,
    pub user_id: Option<Cow<'a, str>>,
    pub session_id: Option<Cow<'a, str>>,
    /// JSON text of the context, and what the engine reads of it.
    pub context: Option<(&'a str, EvaluationContext<'a>)>,
}

/// The payload as text, if its size and encoding are acceptable.
pub fn text(payload: &[u8]) -> Option<&str> {
    (payload.len() <= MAX_REQUEST_BYTES).then(|| std::str::from_utf8(payload).ok()).flatten()
}

impl<'a> Parts<'a> {
    /// The request; `None` if the fields contradict each other or are too long.
    pub fn into_request(mut self, unescape: Unescape) -> Option<Request<'a>> {
        let bounded = |field: &str, text: &Option<Cow<'_, str>>, limit: usize| {
            check_length(field, text.as_ref().map_or(0, |text| text.len()), limit).ok()
        };
        bounded("environment", &self.environment, MAX_ENVIRONMENT_BYTES)?;
        bounded("user_id", &self.user_id, MAX_ID_BYTES)?;
        bounded("session_id", &self.session_id, MAX_ID_BYTES)?;
        let asks = self.asks(unescape)?;
        let (context_json, mut context) = self.context.unwrap_or(("{}", EvaluationContext::default()));
        bounded("context.userId", &context.user_id, MAX_ID_BYTES)?;
        bounded("context.sessionId", &context.session_id, MAX_ID_BYTES)?;
        context.user_id = given(self.user_id).or(context.user_id.take());
        match given(self.session_id) {
            Some(session) if is_generated_session(&session) => context.anonymous_id = Some(session),
            session => context.session_id = session.or(context.session_id.take()),
        }
        context.sort_properties();
        let (request_id, environment) = (self.request_id, self.environment);
        Some(Request { request_id, environment, asks, context, context_json: Cow::Borrowed(context_json) })
    }

    fn asks(&mut self, unescape: Unescape) -> Option<Asks<'a>> {
        match (self.flag_name.take(), self.flag_names.take()) {
            (Some(flag), None) if self.default_values.is_none() && self.value_types.is_none() => {
                let value_type = self.value_type.take().map(|name| name.parse()).transpose().ok()?;
                ask(flag, self.default_value, value_type, unescape).map(Asks::One)
            }
            (None, Some(flags)) if self.default_value.is_none() && self.value_type.is_none() => {
                self.many(flags, unescape).map(Asks::Many)
            }
            _ => None,
        }
    }

    fn many(&mut self, flags: Vec<Cow<'a, str>>, unescape: Unescape) -> Option<Vec<Ask<'a>>> {
        if !(1..=MAX_FLAGS_COUNT).contains(&flags.len()) {
            return None;
        }
        let defaults: AHashMap<_, _> = self.default_values.take().into_iter().flatten().collect();
        let types = self.value_types.take().into_iter().flatten();
        let typed = |(flag, json): (Cow<'a, str>, &'a str)| {
            let name = json.starts_with('"').then(|| string(json, unescape)).flatten()?;
            Some((flag, name.parse::<ValueType>().ok()?))
        };
        let types: AHashMap<_, _> = types.map(typed).collect::<Option<_>>()?;
        let asks = flags.into_iter().map(|flag| {
            let (default, value_type) = (defaults.get(&flag).copied(), types.get(&flag).copied());
            ask(flag, default.filter(|json| *json != "null"), value_type, unescape)
        });
        asks.collect()
    }
}

fn ask<'a>(
    flag: Cow<'a, str>,
    default_json: Option<&'a str>,
    value_type: Option<ValueType>,
    unescape: Unescape,
) -> Option<Ask<'a>> {
    if !(1..=MAX_FLAG_NAME_BYTES).contains(&flag.len()) {
        return None;
    }
    let default = match default_json {
        Some(json) => Some(default_of(json, unescape)?),
        None => None,
    };
    let value_type = value_type.unwrap_or_else(|| ValueType::of_default(default.as_ref()));
    Some(Ask { flag, default, default_json, value_type })
}

fn default_of(json: &str, unescape: Unescape) -> Option<DefaultValue<'_>> {
    Some(match json.as_bytes().first()? {
        b'"' => DefaultValue::String(string(json, unescape)?),
        b't' | b'f' => DefaultValue::Boolean(json == "true"),
        b'{' | b'[' => DefaultValue::Json(json),
        _ => DefaultValue::Number(json),
    })
}

/// Treats an empty user or session as absent.
fn given(id: Option<Cow<'_, str>>) -> Option<Cow<'_, str>> {
    id.filter(|id| !id.is_empty())
}

/// Fills a field; `None` if it already has a value.
pub fn set<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

/// The decoded text of a JSON string.
pub fn string(json: &str, unescape: Unescape) -> Option<Cow<'_, str>> {
    let inner = json.get(1..json.len().checked_sub(1)?)?;
    if inner.as_bytes().contains(&b'\\') {
        unescape(json).map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The text of a field that may be a string, a number or a boolean.
pub fn scalar(json: &str, unescape: Unescape) -> Option<Cow<'_, str>> {
    match json.as_bytes().first()? {
        b'"' => string(json, unescape),
        b'{' | b'[' => None,
        _ => Some(Cow::Borrowed(json)),
    }
}

/// The value of a context's member as the engine reads it. The outer `None` is an invalid string, the inner one `null`.
pub fn member_text(json: &str, unescape: Unescape) -> Option<Option<Cow<'_, str>>> {
    Some(match json.as_bytes().first()? {
        b'"' => Some(string(json, unescape)?),
        b'n' => None,
        b'{' | b'[' => Some(compact(json)),
        _ => Some(Cow::Borrowed(json)),
    })
}

/// An object or a list without white space between tokens. All arms use the service's function.
pub fn compact(json: &str) -> Cow<'_, str> {
    match (Span { kind: Kind::Object, text: json }).compact() {
        Cow::Borrowed(_) => Cow::Borrowed(json),
        Cow::Owned(compact) => Cow::Owned(compact),
    }
}

/// Members of a context, as they are read.
#[derive(Default)]
pub struct Context<'a> {
    context: EvaluationContext<'a>,
    session: Option<Cow<'a, str>>,
}

impl<'a> Context<'a> {
    /// Adds a member; `None` is `null`.
    pub fn add(&mut self, name: Cow<'a, str>, text: Option<Cow<'a, str>>) {
        let context = &mut self.context;
        match (name.as_ref(), text) {
            ("userId", text) => context.user_id = given(text),
            ("sessionId", text) => context.session_id = given(text),
            (SESSION_PROPERTY, text) => self.session = given(text),
            ("remoteAddress", text) => context.remote_address = text,
            ("currentTime", text) => context.current_time = text,
            ("appName", text) => context.app_name = text,
            ("environment", _) => {}
            (_, Some(text)) => context.properties.push((name, text)),
            (_, None) => context.properties.retain(|(known, _)| *known != name),
        }
    }

    pub fn finish(mut self) -> EvaluationContext<'a> {
        self.context.session_id = self.session.or(self.context.session_id.take());
        self.context
    }
}
