//! Readers that deserialize a struct whose fields borrow from the record, with serde_json and with sonic-rs.
//!
//! Values that keep their text (defaults, ids, members of the context) are raw values, because serde's numbers lose
//! digits. The members of the context are read from its raw text in a second pass.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use flagstream_protocol::request::Request;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use sonic_rs::LazyValue;

use super::parts::{Context, Parts, member_text, scalar, text};

pub fn serde_json(payload: &[u8]) -> Option<Request<'_>> {
    read::<&RawValue>(text(payload)?)
}

pub fn sonic(payload: &[u8]) -> Option<Request<'_>> {
    read::<LazyValue<'_>>(text(payload)?)
}

/// A library's unparsed JSON value.
trait Raw<'a>: Deserialize<'a> {
    fn parse<T: Deserialize<'a>>(json: &'a str) -> Option<T>;
    fn unescape(json: &str) -> Option<String>;
    /// The value's text. A string with escapes may be a copy.
    fn json(&self) -> Cow<'a, str>;
    /// The value's text as it is in the document, where it is at `path`.
    fn json_in(&self, document: &'a str, path: &[&str]) -> Option<&'a str>;
}

impl<'a> Raw<'a> for &'a RawValue {
    fn parse<T: Deserialize<'a>>(json: &'a str) -> Option<T> {
        serde_json::from_str(json).ok()
    }

    fn unescape(json: &str) -> Option<String> {
        serde_json::from_str(json).ok()
    }

    fn json(&self) -> Cow<'a, str> {
        Cow::Borrowed(self.get())
    }

    fn json_in(&self, _document: &'a str, _path: &[&str]) -> Option<&'a str> {
        Some(self.get())
    }
}

impl<'a> Raw<'a> for LazyValue<'a> {
    fn parse<T: Deserialize<'a>>(json: &'a str) -> Option<T> {
        sonic_rs::from_str(json).ok()
    }

    fn unescape(json: &str) -> Option<String> {
        sonic_rs::from_str(json).ok()
    }

    fn json(&self) -> Cow<'a, str> {
        self.as_raw_cow()
    }

    fn json_in(&self, document: &'a str, path: &[&str]) -> Option<&'a str> {
        match self.as_raw_cow() {
            Cow::Borrowed(json) => Some(json),
            Cow::Owned(_) => match sonic_rs::get(document, path).ok()?.as_raw_cow() {
                Cow::Borrowed(json) => Some(json),
                Cow::Owned(_) => None,
            },
        }
    }
}

/// A string, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(bound(deserialize = "R: Deserialize<'de>"))]
struct Body<'a, R> {
    request_id: Option<R>,
    #[serde(borrow)]
    flag_name: Option<Text<'a>>,
    #[serde(borrow)]
    flag_names: Option<Vec<Text<'a>>>,
    user_id: Option<R>,
    session_id: Option<R>,
    context: Option<R>,
    default_value: Option<R>,
    #[serde(borrow)]
    default_values: Option<Members<'a, R>>,
    #[serde(borrow)]
    value_type: Option<Text<'a>>,
    #[serde(borrow)]
    value_types: Option<Members<'a, R>>,
    #[serde(borrow)]
    environment: Option<Text<'a>>,
    #[serde(borrow, rename = "requested_at")]
    _requested_at: Option<Text<'a>>,
}

fn read<'a, R: Raw<'a>>(document: &'a str) -> Option<Request<'a>> {
    let body: Body<'a, R> = R::parse(document)?;
    let context = match body.context {
        Some(raw) => {
            let json = raw.json_in(document, &["context"])?;
            Some((json, R::parse::<ContextMembers<'a, R>>(json)?.context.finish()))
        }
        None => None,
    };
    let default_value = match &body.default_value {
        Some(raw) => Some(raw.json_in(document, &["default_value"])?),
        None => None,
    };
    let parts = Parts {
        request_id: scalar_of(body.request_id)?,
        environment: body.environment.map(|text| text.0),
        flag_name: body.flag_name.map(|text| text.0),
        flag_names: body.flag_names.map(|names| names.into_iter().map(|text| text.0).collect()),
        default_value,
        default_values: members_of(body.default_values, document, "default_values")?,
        value_type: body.value_type.map(|text| text.0),
        value_types: members_of(body.value_types, document, "value_types")?,
        user_id: scalar_of(body.user_id)?,
        session_id: scalar_of(body.session_id)?,
        context,
    };
    parts.into_request(R::unescape)
}

/// The outer `None` is a value of the wrong type.
#[allow(clippy::option_option)]
fn scalar_of<'a, R: Raw<'a>>(raw: Option<R>) -> Option<Option<Cow<'a, str>>> {
    let Some(raw) = raw else { return Some(None) };
    let text = match raw.json() {
        Cow::Borrowed(json) => scalar(json, R::unescape)?,
        Cow::Owned(string) => Cow::Owned(R::unescape(&string)?),
    };
    Some(Some(text))
}

type Texts<'a> = Vec<(Cow<'a, str>, &'a str)>;

#[allow(clippy::option_option)]
fn members_of<'a, R: Raw<'a>>(
    members: Option<Members<'a, R>>,
    document: &'a str,
    field: &str,
) -> Option<Option<Texts<'a>>> {
    let Some(Members(members)) = members else { return Some(None) };
    let texts = members.into_iter().map(|(name, raw)| {
        let json = raw.json_in(document, &[field, &name])?;
        Some((name, json))
    });
    texts.collect::<Option<_>>().map(Some)
}

/// Members of an object, in their order.
struct Members<'a, R>(Vec<(Cow<'a, str>, R)>);

impl<'de: 'a, 'a, R: Deserialize<'de>> Deserialize<'de> for Members<'a, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor<'a, R>(PhantomData<(&'a str, R)>);

        impl<'de: 'a, 'a, R: Deserialize<'de>> Visitor<'de> for MembersVisitor<'a, R> {
            type Value = Members<'a, R>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Text(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor(PhantomData))
    }
}

/// A context, read without a list of its members in between.
struct ContextMembers<'a, R> {
    context: Context<'a>,
    raw: PhantomData<R>,
}

impl<'de, R: Raw<'de>> Deserialize<'de> for ContextMembers<'de, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContextVisitor<R>(PhantomData<R>);

        impl<'de, R: Raw<'de>> Visitor<'de> for ContextVisitor<R> {
            type Value = ContextMembers<'de, R>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut context = Context::default();
                while let Some(Text(name)) = map.next_key()? {
                    let text = match map.next_value::<R>()?.json() {
                        Cow::Borrowed(json) => member_text(json, R::unescape),
                        Cow::Owned(string) => R::unescape(&string).map(|text| Some(Cow::Owned(text))),
                    };
                    context.add(name, text.ok_or_else(|| A::Error::custom("invalid escapes"))?);
                }
                Ok(ContextMembers { context, raw: PhantomData })
            }
        }

        deserializer.deserialize_map(ContextVisitor(PhantomData))
    }
}
