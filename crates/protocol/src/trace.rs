//! `traceparent` header (W3C Trace Context), passed on from a call to its events.

use std::ffi::CStr;
use std::fmt;

/// Name of the header in HTTP and in Kafka.
pub const TRACEPARENT: &str = "traceparent";
/// Name of the header in the type that librdkafka requires.
pub const HEADER: &CStr = c"traceparent";
const LENGTH: usize = 55;

/// Position of a call in a trace: `00-{trace}-{span}-{flags}`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Traceparent([u8; LENGTH]);

impl Traceparent {
    /// Parses the header. A malformed header is `None`, because the standard requires it to be treated as
    /// absent.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let (known, rest) = header.split_first_chunk::<LENGTH>()?;
        let part = |from: usize, to: usize| known.get(from..to).unwrap_or_default();
        let digits = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let dashes = [2, 35, 52].iter().all(|place| known.get(*place) == Some(&b'-'));
        let (version, trace, span, flags) = (part(0, 2), part(3, 35), part(36, 52), part(53, 55));
        let written = dashes && [version, trace, span, flags].into_iter().all(digits);
        let nothing = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
        // A later version of the standard may append further fields.
        let ends = rest.is_empty() || (version != b"00" && rest.first() == Some(&b'-'));
        (written && ends && version != b"ff" && !nothing(trace) && !nothing(span)).then_some(Self(*known))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_the_standard_takes_is_taken() {
        let parsed = Traceparent::parse(GOOD.as_bytes());
        assert_eq!(parsed.as_ref().map(Traceparent::as_bytes), Some(GOOD.as_bytes()));
        let later = GOOD.replacen("00", "01", 1) + "-more";
        assert!(Traceparent::parse(later.as_bytes()).is_some());
        let odd = [
            String::new(),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            format!("{GOOD}-more"),
            GOOD.replace('-', "_"),
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            GOOD.replace('a', "g"),
        ];
        for odd in odd {
            assert_eq!(Traceparent::parse(odd.as_bytes()), None, "{odd}");
        }
        for end in 0..GOOD.len() {
            assert_eq!(
                Traceparent::parse(GOOD.as_bytes().get(..end).unwrap_or_default()),
                None,
                "cut at {end}"
            );
        }
    }
}
