//! A variant's payload, converted once into every type that may be requested.

use super::{Value, json};

/// Payload of a variant. Unleash's types are `string`, `json`, `csv` and `number`.
#[derive(Debug, Clone, PartialEq)]
pub struct Payload {
    /// Type as written in the definition.
    pub kind: Box<str>,
    /// Value as written in the definition.
    pub text: Box<str>,
    /// Value for a request of type string if it differs from `text`.
    string: Option<Box<str>>,
    number: Option<Number>,
    /// Compact JSON of an object or a list.
    object: Option<Box<str>>,
    natural: Value<'static>,
}

/// Number in the notation of each type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Number {
    pub(super) text: Box<str>,
    pub(super) integer: Result<Box<str>, NotInteger>,
    /// Notation with a decimal point or an exponent.
    pub(super) float: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotInteger {
    Fraction,
    /// The integer does not fit into 64 bits.
    TooLarge,
}

impl Payload {
    pub fn parse(kind: &str, text: &str) -> Self {
        let is_json = kind == "json";
        let document = json::compact(text).filter(|document| is_json || json::is_object_or_list(document));
        let member = document.as_deref().and_then(json::value_member);
        // Numbers and objects are read from the member `value`, else from the document, else from the text.
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

    /// The value if no type is requested: a `json` payload's member `value` or the whole document, the number
    /// of a `number`, or the text of any other type.
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
    /// Reads a text that Rust parses as a finite number. Rust accepts more than JSON does (`+5`, `.5`,
    /// `007`).
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        text.parse::<f64>().ok().filter(|number| number.is_finite())?;
        let decimal = Decimal::parse(text)?;
        let text = match serde_json::from_str::<serde_json::Number>(text) {
            Ok(_) => text.to_owned(),
            Err(_) => decimal.to_json(),
        };
        let float = if text.contains(['.', 'e', 'E']) { text.clone() } else { format!("{text}.0") };
        Some(Self { integer: decimal.integer(), text: text.into(), float: float.into() })
    }
}

/// Parts of a number's decimal text, so that no digit is lost by conversion to binary.
#[derive(Debug)]
struct Decimal<'t> {
    negative: bool,
    whole: &'t str,
    fraction: &'t str,
    /// Decimal exponent with its sign; empty if there is none.
    exponent: &'t str,
}

impl<'t> Decimal<'t> {
    /// Splits a text that `f64` parses; `None` for `inf` and `nan`.
    fn parse(text: &'t str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, ""));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        (digits(whole) && digits(fraction)).then_some(Self { negative, whole, fraction, exponent })
    }

    /// The number in JSON's grammar.
    fn to_json(&self) -> String {
        let whole = match self.whole.trim_start_matches('0') {
            "" => "0",
            whole => whole,
        };
        let sign = if self.negative { "-" } else { "" };
        let point = if self.fraction.is_empty() { "" } else { "." };
        let e = if self.exponent.is_empty() { "" } else { "e" };
        format!("{sign}{whole}{point}{}{e}{}", self.fraction, self.exponent)
    }

    /// The number as an integer, if it is one that fits into 64 bits.
    fn integer(&self) -> Result<Box<str>, NotInteger> {
        /// Digits of the largest integer within 64 bits.
        const INTEGER_DIGITS_MAX: usize = 19;
        let digits = format!("{}{}", self.whole, self.fraction);
        let significant = digits.trim_start_matches('0').trim_end_matches('0');
        if significant.is_empty() {
            return Ok("0".into());
        }
        let trailing = digits.len() - digits.trim_end_matches('0').len();
        // With an exponent that overflows `i64`, the number cannot be a 64-bit integer, whatever the sign.
        let exponent: i64 = match self.exponent {
            "" => 0,
            text if text.starts_with('-') => text.parse().unwrap_or(i64::MIN / 2),
            text => text.parse().unwrap_or(i64::MAX / 2),
        };
        let shift = i64::try_from(self.fraction.len()).unwrap_or(i64::MAX / 2);
        let zeros =
            exponent.saturating_sub(shift).saturating_add(i64::try_from(trailing).unwrap_or_default());
        let zeros = usize::try_from(zeros).map_err(|_| NotInteger::Fraction)?;
        if significant.len().saturating_add(zeros) > INTEGER_DIGITS_MAX {
            return Err(NotInteger::TooLarge);
        }
        let sign = if self.negative { "-" } else { "" };
        let integer = format!("{sign}{significant}{}", "0".repeat(zeros));
        integer.parse::<i64>().map_err(|_| NotInteger::TooLarge)?;
        Ok(integer.into())
    }
}
