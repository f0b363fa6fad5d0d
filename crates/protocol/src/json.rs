//! Borrowing JSON scanner: one pass over the text, and slices of it instead of a tree.
//!
//! Requests arrive at rates of a hundred thousand per second, and most of a request is only passed on. The
//! scanner validates the whole text (RFC 8259, bounded depth) and returns slices of it; a string without
//! escapes needs no allocation. Escaped strings are decoded by `serde_json`.

use std::borrow::Cow;

/// Error: a text is not acceptable JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("expected {expected} at byte {at}")]
    Syntax { expected: &'static str, at: usize },
    #[error("nested deeper than {limit} levels at byte {at}")]
    TooDeep { limit: usize, at: usize },
}

/// Kind of a JSON value, determined by its first character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    Boolean,
    Number,
    String,
    Object,
    Array,
}

/// One value: its kind and its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<'a> {
    pub kind: Kind,
    pub text: &'a str,
}

/// A position in a JSON text.
#[derive(Debug, Clone)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    max_depth: usize,
}

impl<'a> Scanner<'a> {
    /// Scanner of `text`; objects and lists may be nested up to `max_depth` levels.
    pub fn new(text: &'a str, max_depth: usize) -> Self {
        Self { text, at: 0, depth: 0, max_depth }
    }

    /// Consumes the beginning of an object; an error if the next value is not an object.
    pub fn begin_object(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        self.enter(b'{', "an object")
    }

    /// The next key of the open object, with its `:` consumed; `None` after its `}`. `first` must start as
    /// `true`.
    pub fn next_key(&mut self, first: &mut bool) -> Result<Option<Cow<'a, str>>, JsonError> {
        self.skip_space();
        if self.take(b'}') {
            self.depth -= 1;
            return Ok(None);
        }
        if !std::mem::take(first) {
            self.expect(b',', "',' or '}'")?;
            self.skip_space();
        }
        let key = self.string()?;
        self.skip_space();
        self.expect(b':', "':'")?;
        Ok(Some(key))
    }

    /// Consumes the beginning of a list; an error if the next value is not a list.
    pub fn begin_array(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        self.enter(b'[', "a list")
    }

    /// Whether the open list has another element. Consumes the separator or the final `]`.
    pub fn next_element(&mut self, first: &mut bool) -> Result<bool, JsonError> {
        self.skip_space();
        if self.take(b']') {
            self.depth -= 1;
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.expect(b',', "',' or ']'")?;
        }
        Ok(true)
    }

    /// Kind of the next value, without consuming it.
    pub fn peek(&mut self) -> Result<Kind, JsonError> {
        self.skip_space();
        match self.byte() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b't' | b'f') => Ok(Kind::Boolean),
            Some(b'n') => Ok(Kind::Null),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            _ => Err(self.syntax("a value")),
        }
    }

    /// Consumes any value.
    pub fn value(&mut self) -> Result<Span<'a>, JsonError> {
        let kind = self.peek()?;
        let start = self.at;
        match kind {
            Kind::Null => self.literal("null")?,
            Kind::Boolean if self.byte() == Some(b't') => self.literal("true")?,
            Kind::Boolean => self.literal("false")?,
            Kind::Number => self.number()?,
            Kind::String => drop(self.string()?),
            Kind::Object => self.skip_object()?,
            Kind::Array => self.skip_array()?,
        }
        Ok(Span { kind, text: self.text.get(start..self.at).unwrap_or_default() })
    }

    /// Consumes a string; an error if the next value is not a string.
    pub fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let start = self.at + 1;
        if self.byte() == Some(b'"') {
            let rest = self.text.as_bytes().get(start..).unwrap_or_default();
            let length = find_special(rest);
            if rest.get(length) == Some(&b'"') {
                self.at = start + length + 1;
                return Ok(Cow::Borrowed(self.text.get(start..start + length).unwrap_or_default()));
            }
        }
        self.escaped_string()
    }

    /// Consumes a string with escapes; an error if the next value is not a string.
    #[cold]
    fn escaped_string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let start = self.at;
        self.expect(b'"', "a string")?;
        loop {
            self.at += find_special(self.text.as_bytes().get(self.at..).unwrap_or_default());
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                _ => return Err(self.syntax("the end of a string")),
            }
        }
        self.at += 1;
        let decoded = serde_json::from_str(self.text.get(start..self.at).unwrap_or_default());
        decoded
            .map(Cow::Owned)
            .map_err(|_| JsonError::Syntax { expected: "valid escapes in the string", at: start })
    }

    /// The text that has not been consumed yet.
    pub fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Checks that only white space follows.
    pub fn end(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        if self.at == self.text.len() { Ok(()) } else { Err(self.syntax("the end of the text")) }
    }

    fn skip_object(&mut self) -> Result<(), JsonError> {
        self.begin_object()?;
        let mut first = true;
        while self.next_key(&mut first)?.is_some() {
            self.value()?;
        }
        Ok(())
    }

    fn skip_array(&mut self) -> Result<(), JsonError> {
        self.begin_array()?;
        let mut first = true;
        while self.next_element(&mut first)? {
            self.value()?;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.syntax("a digit")) } else { Ok(()) }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), JsonError> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(self.syntax(word));
        }
        self.at += word.len();
        Ok(())
    }

    fn enter(&mut self, open: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.depth == self.max_depth {
            return Err(JsonError::TooDeep { limit: self.max_depth, at: self.at });
        }
        self.expect(open, expected)?;
        self.depth += 1;
        Ok(())
    }

    fn skip_space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.byte() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.take(byte) { Ok(()) } else { Err(self.syntax(expected)) }
    }

    fn syntax(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax { expected, at: self.at.min(self.text.len()) }
    }
}

impl<'a> Span<'a> {
    /// The span of `text`, which must be one valid JSON value.
    pub fn parse(text: &'a str, max_depth: usize) -> Result<Self, JsonError> {
        let mut scanner = Scanner::new(text, max_depth);
        let span = scanner.value()?;
        scanner.end()?;
        Ok(span)
    }

    /// The decoded text of a string; `None` for every other kind.
    pub fn as_string(&self) -> Option<Cow<'a, str>> {
        (self.kind == Kind::String).then(|| Scanner::new(self.text, 1).string().ok()).flatten()
    }

    /// The text without white space between tokens.
    pub fn compact(&self) -> Cow<'a, str> {
        let spaced = |byte: u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        if self.kind == Kind::String || !self.text.bytes().any(spaced) {
            return Cow::Borrowed(self.text);
        }
        let mut compact = String::with_capacity(self.text.len());
        let (mut quoted, mut escaped) = (false, false);
        for c in self.text.chars() {
            if quoted {
                quoted = escaped || c != '"';
                escaped = c == '\\' && !escaped;
            } else if c.is_ascii() && spaced(c as u8) {
                continue;
            } else {
                quoted = c == '"';
            }
            compact.push(c);
        }
        Cow::Owned(compact)
    }
}

/// Position of the first byte that cannot be inside a JSON string as it is: a quote, a backslash or a control character.
/// The length of `bytes` if there is none.
///
/// Eight bytes are examined at once. The arithmetic may also mark bytes after the first one that it finds, never before.
fn find_special(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = ONES << 7;
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let equal = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = (below(word, 0x20) | equal(word, b'"') | equal(word, b'\\')) & HIGH_BITS;
        if found != 0 {
            return index * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let is_special = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\');
    words.len() * 8 + rest.iter().position(is_special).unwrap_or(rest.len())
}

/// Appends `text` as a JSON string, quotes included.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    if find_special(text.as_bytes()) < text.len() {
        // Writing to a Vec cannot fail, and a str always serializes.
        let _ = serde_json::to_writer(out, text);
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_special_byte_is_found_at_every_position() {
        for length in 0..40 {
            for special in [b'"', b'\\', 0, 0x1f] {
                // Bytes beside the limits, and those of other characters than ASCII.
                for other in [b'a', 0x20, 0x21, 0x23, 0x5b, 0x5d, 0x7f, 0x80, 0x9f, 0xa2, 0xdc, 0xff] {
                    let mut bytes = vec![other; length];
                    assert_eq!(find_special(&bytes), length, "{other}");
                    for at in (0..length).rev() {
                        bytes[at] = special;
                        assert_eq!(find_special(&bytes), at, "{special} among {other}");
                    }
                }
            }
        }
    }

    fn scan(text: &str) -> Result<Span<'_>, JsonError> {
        Span::parse(text, 32)
    }

    /// JSON-like texts, mostly nearly valid.
    fn soup() -> impl Strategy<Value = String> {
        let token = prop_oneof![
            Just("{"),
            Just("}"),
            Just("["),
            Just("]"),
            Just(","),
            Just(":"),
            Just("\"a\""),
            Just("\"\\u00e9\""),
            Just("\"\\ud800\""),
            Just("\"\\x\""),
            Just("\"b"),
            Just("1"),
            Just("-0.5e+3"),
            Just("01"),
            Just("1."),
            Just("-"),
            Just("true"),
            Just("nul"),
            Just("null"),
            Just(" "),
            Just("\n"),
            Just("\u{1}"),
            Just("é"),
        ];
        prop::collection::vec(token, 0..14).prop_map(|tokens| tokens.concat())
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(|f| serde_json::json!(f)),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::hash_map(".*", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn accepts_exactly_what_serde_json_accepts(text in soup()) {
            let oracle = serde_json::from_str::<&serde_json::value::RawValue>(&text);
            let strict = serde_json::from_str::<serde_json::Value>(&text);
            // A raw value does not decode escapes but a tree does: a text is valid if both accept it.
            let valid = oracle.is_ok() && strict.is_ok();
            prop_assert_eq!(scan(&text).is_ok(), valid, "{:?}", text);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = scan(&text);
        }

        #[test]
        fn compact_text_means_the_same(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let compact = scan(&pretty).unwrap().compact();
            prop_assert_eq!(compact, serde_json::to_string(&value).unwrap());
        }

        #[test]
        fn strings_are_written_as_serde_json_writes_them(text in ".*") {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            prop_assert_eq!(out, serde_json::to_vec(&text).unwrap());
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(scan(&nested(32)).is_ok());
        assert_eq!(scan(&nested(33)), Err(JsonError::TooDeep { limit: 32, at: 32 }));
    }

    #[test]
    fn plain_strings_are_borrowed() {
        let mut scanner = Scanner::new("\"plain\"", 1);
        assert!(matches!(scanner.string(), Ok(Cow::Borrowed("plain"))));
    }
}
