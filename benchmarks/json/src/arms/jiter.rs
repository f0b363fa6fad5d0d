//! Reader on jiter's iterator, in one pass.

use std::borrow::Cow;

use flagstream_protocol::request::Request;
use jiter::{Jiter, Peek};

use super::parts::{Context, Parts, compact, set, text};

pub fn read(payload: &[u8]) -> Option<Request<'_>> {
    let text = text(payload)?;
    let mut reader = Reader { text, jiter: Jiter::new(text.as_bytes()) };
    let mut parts = Parts::default();
    let mut key = reader.first_key()?;
    while let Some(name) = key {
        reader.field(&mut parts, &name)?;
        key = reader.next_key()?;
    }
    reader.jiter.finish().ok()?;
    parts.into_request(unescape)
}

struct Reader<'a> {
    text: &'a str,
    jiter: Jiter<'a>,
}

/// The outer `None` of each result is invalid JSON or a value of the wrong type, the inner one `null` or the end.
#[allow(clippy::option_option)]
impl<'a> Reader<'a> {
    fn field(&mut self, parts: &mut Parts<'a>, name: &str) -> Option<()> {
        let peek = self.jiter.peek().ok()?;
        if peek == Peek::Null {
            return self.jiter.known_null().ok();
        }
        match name {
            "request_id" => set(&mut parts.request_id, self.scalar(peek)?),
            "flag_name" => set(&mut parts.flag_name, self.string(peek)?),
            "flag_names" => set(&mut parts.flag_names, self.strings(peek)?),
            "user_id" => set(&mut parts.user_id, self.scalar(peek)?),
            "session_id" => set(&mut parts.session_id, self.scalar(peek)?),
            "context" => set(&mut parts.context, self.context()?),
            "default_value" => set(&mut parts.default_value, self.raw(peek)?),
            "default_values" => set(&mut parts.default_values, self.members()?),
            "value_type" => set(&mut parts.value_type, self.string(peek)?),
            "value_types" => set(&mut parts.value_types, self.members()?),
            "environment" => set(&mut parts.environment, self.string(peek)?),
            "requested_at" => self.string(peek).map(drop),
            _ => self.jiter.known_skip(peek).ok(),
        }
    }

    fn context(&mut self) -> Option<(&'a str, flagstream_evaluation::EvaluationContext<'a>)> {
        let start = self.jiter.current_index();
        let mut context = Context::default();
        let mut key = self.first_key()?;
        while let Some(name) = key {
            let value = self.member()?;
            context.add(name, value);
            key = self.next_key()?;
        }
        Some((self.text.get(start..self.jiter.current_index())?, context.finish()))
    }

    /// The value of a context's member as the engine reads it.
    fn member(&mut self) -> Option<Option<Cow<'a, str>>> {
        let peek = self.jiter.peek().ok()?;
        Some(match peek {
            Peek::Null => {
                self.jiter.known_null().ok()?;
                None
            }
            Peek::String => Some(self.string(peek)?),
            Peek::Object | Peek::Array => Some(compact(self.raw(peek)?)),
            _ => Some(Cow::Borrowed(self.raw(peek)?)),
        })
    }

    fn members(&mut self) -> Option<Vec<(Cow<'a, str>, &'a str)>> {
        let mut members = Vec::new();
        let mut key = self.first_key()?;
        while let Some(name) = key {
            let peek = self.jiter.peek().ok()?;
            members.push((name, self.raw(peek)?));
            key = self.next_key()?;
        }
        Some(members)
    }

    fn strings(&mut self, peek: Peek) -> Option<Vec<Cow<'a, str>>> {
        if peek != Peek::Array {
            return None;
        }
        let mut strings = Vec::new();
        let mut next = self.jiter.known_array().ok()?;
        while let Some(peek) = next {
            strings.push(self.string(peek)?);
            next = self.jiter.array_step().ok()?;
        }
        Some(strings)
    }

    /// A string; a number or a boolean as its text.
    fn scalar(&mut self, peek: Peek) -> Option<Cow<'a, str>> {
        match peek {
            Peek::String => self.string(peek),
            Peek::Object | Peek::Array => None,
            _ => self.raw(peek).map(Cow::Borrowed),
        }
    }

    fn string(&mut self, peek: Peek) -> Option<Cow<'a, str>> {
        if peek != Peek::String {
            return None;
        }
        let found = self.jiter.known_str().ok()?;
        Some(borrowed(self.text, found))
    }

    /// The text of any value.
    fn raw(&mut self, peek: Peek) -> Option<&'a str> {
        let start = self.jiter.current_index();
        self.jiter.known_skip(peek).ok()?;
        self.text.get(start..self.jiter.current_index())
    }

    fn first_key(&mut self) -> Option<Option<Cow<'a, str>>> {
        let key = self.jiter.next_object().ok()?;
        Some(key.map(|key| borrowed(self.text, key)))
    }

    fn next_key(&mut self) -> Option<Option<Cow<'a, str>>> {
        let key = self.jiter.next_key().ok()?;
        Some(key.map(|key| borrowed(self.text, key)))
    }
}

/// The slice of `text` that `found` is, or a copy if it was decoded into jiter's own buffer. jiter's results borrow from
/// its iterator, so that two of them could not be kept.
fn borrowed<'a>(text: &'a str, found: &str) -> Cow<'a, str> {
    let start = found.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
    match text.get(start..start.wrapping_add(found.len())) {
        Some(slice) => Cow::Borrowed(slice),
        None => Cow::Owned(found.to_owned()),
    }
}

fn unescape(json: &str) -> Option<String> {
    Jiter::new(json.as_bytes()).next_str().ok().map(str::to_owned)
}
