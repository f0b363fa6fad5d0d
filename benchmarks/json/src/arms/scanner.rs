//! Reader on flagstream's scanner that does no more than the others: the difference to them is that of the scanner.

use std::borrow::Cow;

use flagstream_evaluation::EvaluationContext;
use flagstream_protocol::json::{Kind, Scanner};
use flagstream_protocol::request::{MAX_DEPTH_LEVELS, Request};

use super::parts::{Context, Parts, compact, set, text};

pub fn read(payload: &[u8]) -> Option<Request<'_>> {
    let mut reader = Reader(Scanner::new(text(payload)?, MAX_DEPTH_LEVELS));
    let mut parts = Parts::default();
    let mut first = true;
    reader.0.begin_object().ok()?;
    while let Some(name) = reader.0.next_key(&mut first).ok()? {
        reader.field(&mut parts, &name)?;
    }
    reader.0.end().ok()?;
    parts.into_request(unescape)
}

struct Reader<'a>(Scanner<'a>);

impl<'a> Reader<'a> {
    fn field(&mut self, parts: &mut Parts<'a>, name: &str) -> Option<()> {
        let kind = self.0.peek().ok()?;
        if kind == Kind::Null {
            return self.0.value().map(drop).ok();
        }
        match name {
            "request_id" => set(&mut parts.request_id, self.scalar(kind)?),
            "flag_name" => set(&mut parts.flag_name, self.string(kind)?),
            "flag_names" => set(&mut parts.flag_names, self.strings()?),
            "user_id" => set(&mut parts.user_id, self.scalar(kind)?),
            "session_id" => set(&mut parts.session_id, self.scalar(kind)?),
            "context" => set(&mut parts.context, self.context()?),
            "default_value" => set(&mut parts.default_value, self.0.value().ok()?.text),
            "default_values" => set(&mut parts.default_values, self.members()?),
            "value_type" => set(&mut parts.value_type, self.string(kind)?),
            "value_types" => set(&mut parts.value_types, self.members()?),
            "environment" => set(&mut parts.environment, self.string(kind)?),
            "requested_at" => self.string(kind).map(drop),
            _ => self.0.value().map(drop).ok(),
        }
    }

    fn context(&mut self) -> Option<(&'a str, EvaluationContext<'a>)> {
        let start = self.0.rest();
        let mut context = Context::default();
        self.0.begin_object().ok()?;
        let mut first = true;
        while let Some(name) = self.0.next_key(&mut first).ok()? {
            let value = match self.0.peek().ok()? {
                Kind::String => Some(self.0.string().ok()?),
                Kind::Null => self.0.value().ok().map(|_| None)?,
                Kind::Object | Kind::Array => Some(compact(self.0.value().ok()?.text)),
                Kind::Boolean | Kind::Number => Some(Cow::Borrowed(self.0.value().ok()?.text)),
            };
            context.add(name, value);
        }
        Some((start.get(..start.len() - self.0.rest().len())?, context.finish()))
    }

    fn members(&mut self) -> Option<Vec<(Cow<'a, str>, &'a str)>> {
        let (mut members, mut first) = (Vec::new(), true);
        self.0.begin_object().ok()?;
        while let Some(name) = self.0.next_key(&mut first).ok()? {
            members.push((name, self.0.value().ok()?.text));
        }
        Some(members)
    }

    fn strings(&mut self) -> Option<Vec<Cow<'a, str>>> {
        let (mut strings, mut first) = (Vec::new(), true);
        self.0.begin_array().ok()?;
        while self.0.next_element(&mut first).ok()? {
            let kind = self.0.peek().ok()?;
            strings.push(self.string(kind)?);
        }
        Some(strings)
    }

    /// A string; a number or a boolean as its text.
    fn scalar(&mut self, kind: Kind) -> Option<Cow<'a, str>> {
        match kind {
            Kind::Number | Kind::Boolean => Some(Cow::Borrowed(self.0.value().ok()?.text)),
            _ => self.string(kind),
        }
    }

    fn string(&mut self, kind: Kind) -> Option<Cow<'a, str>> {
        (kind == Kind::String).then(|| self.0.string().ok()).flatten()
    }
}

fn unescape(json: &str) -> Option<String> {
    Scanner::new(json, 1).string().ok().map(Cow::into_owned)
}
