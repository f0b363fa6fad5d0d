//! A variant's payload, converted once to every type that may be asked for.

use super::{Value, json};

/// What a variant carries. Unleash's types are `string`, `json`, `csv` and `number`.
#[derive(Debug, Clone, PartialEq)]
pub struct Payload {
    /// As the definition has it.
    pub kind: Box<str>,
    /// As the definition has it.
    pub text: Box<str>,
    /// What a string is, where that isn't `text`.
    string: Option<Box<str>>,
    number: Option<Number>,
    /// Compact JSON of an object or a list.
    object: Option<Box<str>>,
    natural: Value<'static>,
}

/// A number in the notations of its types.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Number {
    pub(super) text: Box<str>,
    pub(super) integer: Result<Box<str>, NotInteger>,
    /// With a decimal point or an exponent.
    pub(super) float: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotInteger {
    Fraction,
    /// Beyond 64 bits, or beyond what its notation tells exactly.
    TooLarge,
}

impl Payload {
    pub(crate) fn parse(kind: &str, text: &str) -> Self {
        let is_json = kind == "json";
        let document = json::compact(text).filter(|document| is_json || json::is_object_or_list(document));
        let member = document.as_deref().and_then(json::value_member);
        // What a number or an object is made from: the member `value`, else the document, else the text.
        let source = member.or(document.as_deref()).unwrap_or(text);
        let inner = json::string(source);
        let number = Number::parse(inner.as_deref().unwrap_or(source));
        let object = [inner.as_deref().and_then(json::compact), member.map(str::to_owned), document.clone()]
            .into_iter()
            .flatten()
            .find(|candidate| json::is_object_or_list(candidate));
        let natural = match (kind, &document, &number) {
            ("json", Some(document), _) => json::value(member.unwrap_or(document)),
            ("number", _, Some(number)) => Value::Number(number.text.to_string().into()),
            _ => Value::String(text.to_owned().into()),
        };
        Self {
            kind: kind.into(),
            text: text.into(),
            string: (is_json && member.is_some()).then(|| natural.as_text().into()),
            number,
            object: object.map(Into::into),
            natural,
        }
    }

    /// Its value where no type is asked for: a `json` payload's member `value` or the whole, a `number`'s number,
    /// the text of any other.
    pub fn natural(&self) -> Value<'_> {
        self.natural.borrowed()
    }

    pub(super) fn string(&self) -> &str {
        self.string.as_deref().unwrap_or(&self.text)
    }

    pub(super) fn number(&self) -> Option<&Number> {
        self.number.as_ref()
    }

    pub(super) fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }
}

impl Number {
    /// Reads what Rust takes for a finite number, which is more than JSON does (`+5`, `.5`, `007`).
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite())?;
        let text = match serde_json::from_str::<serde_json::Number>(text) {
            Ok(_) => text.to_owned(),
            Err(_) => number.to_string(),
        };
        let float = if text.contains(['.', 'e', 'E']) { text.clone() } else { format!("{text}.0") };
        Some(Self { integer: integer(&text, number), text: text.into(), float: float.into() })
    }
}

/// The integer that a JSON number is, if it is one.
fn integer(text: &str, number: f64) -> Result<Box<str>, NotInteger> {
    /// Up to here every integer has an `f64` of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
        _ => text,
    };
    if let Ok(integer) = whole.parse::<i64>() {
        return Ok(integer.to_string().into());
    }
    if number.fract() != 0.0 {
        return Err(NotInteger::Fraction);
    }
    if number.abs() > EXACT {
        return Err(NotInteger::TooLarge);
    }
    // Neither a fraction nor an exponent is written here, and adding 0 turns -0 into 0.
    Ok((number + 0.0).to_string().into())
}
