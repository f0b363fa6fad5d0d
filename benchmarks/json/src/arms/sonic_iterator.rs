//! Reader on sonic-rs' lazy iterators: one pass that validates the whole text, then iterators that skip over values.

use std::borrow::Cow;

use flagstream_protocol::request::Request;
use sonic_rs::{JsonValueTrait, LazyValue};

use super::parts::{Context, Parts, member_text, scalar, set, string, text};

pub fn read(payload: &[u8]) -> Option<Request<'_>> {
    let document: LazyValue<'_> = sonic_rs::from_str(text(payload)?).ok()?;
    let mut parts = Parts::default();
    for member in document.into_object_iter()? {
        let (name, value) = member.ok()?;
        if !value.is_null() {
            field(&mut parts, &name, value)?;
        }
    }
    parts.into_request(unescape)
}

fn field<'a>(parts: &mut Parts<'a>, name: &str, value: LazyValue<'a>) -> Option<()> {
    match name {
        "request_id" => set(&mut parts.request_id, scalar(json(&value)?, unescape)?),
        "flag_name" => set(&mut parts.flag_name, text_of(&value)?),
        "flag_names" => {
            let names = value.into_array_iter()?.map(|name| text_of(&name.ok()?));
            set(&mut parts.flag_names, names.collect::<Option<_>>()?)
        }
        "user_id" => set(&mut parts.user_id, scalar(json(&value)?, unescape)?),
        "session_id" => set(&mut parts.session_id, scalar(json(&value)?, unescape)?),
        "context" => {
            let text = json(&value)?;
            let mut context = Context::default();
            for member in value.into_object_iter()? {
                let (name, value) = member.ok()?;
                context.add(name, member_text(json(&value)?, unescape)?);
            }
            set(&mut parts.context, (text, context.finish()))
        }
        "default_value" => set(&mut parts.default_value, json(&value)?),
        "default_values" => set(&mut parts.default_values, members(value)?),
        "value_type" => set(&mut parts.value_type, text_of(&value)?),
        "value_types" => set(&mut parts.value_types, members(value)?),
        "environment" => set(&mut parts.environment, text_of(&value)?),
        "requested_at" => value.is_str().then_some(()),
        _ => Some(()),
    }
}

fn members<'a>(value: LazyValue<'a>) -> Option<Vec<(Cow<'a, str>, &'a str)>> {
    let members = value.into_object_iter()?.map(|member| {
        let (name, value) = member.ok()?;
        Some((name, json(&value)?))
    });
    members.collect()
}

fn text_of<'a>(value: &LazyValue<'a>) -> Option<Cow<'a, str>> {
    value.is_str().then(|| string(json(value)?, unescape)).flatten()
}

/// The text of a value. An iterator's values are never copies. A number may have the white space that follows it.
fn json<'a>(value: &LazyValue<'a>) -> Option<&'a str> {
    match value.as_raw_cow() {
        Cow::Borrowed(json) => Some(json.trim_ascii_end()),
        Cow::Owned(_) => None,
    }
}

fn unescape(json: &str) -> Option<String> {
    sonic_rs::from_str(json).ok()
}
