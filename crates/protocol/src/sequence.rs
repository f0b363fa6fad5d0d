//! Sequence numbers of events for HTTP calls, to recognize duplicates.
//!
//! Such an event has no request in Kafka whose offset could identify it. So each process draws a random
//! stream id at its start, numbers the events it publishes, and sends both in a header. Within a partition,
//! the numbers of a stream only increase; an event with a lower number was sent again.

use std::ffi::CStr;
use std::io::Write;

/// Name of the Kafka header.
pub const HEADER: &CStr = c"sequence";
/// Maximum length of the text form.
const TEXT_BYTES_MAX: usize = 16 + 1 + 20;

/// Position of one event in the stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// Id of the stream, drawn at random by a process at its start.
    pub stream: u64,
    pub number: u64,
}

/// Text form of a sequence for the header: 16 hex digits, `-`, the number.
#[derive(Debug)]
pub struct SequenceText {
    bytes: [u8; TEXT_BYTES_MAX],
    length: usize,
}

impl Sequence {
    pub fn text(self) -> SequenceText {
        let mut bytes = [0; TEXT_BYTES_MAX];
        let mut rest = bytes.as_mut_slice();
        // The buffer is large enough for any two numbers.
        let _ = write!(rest, "{:016x}-{}", self.stream, self.number);
        let length = TEXT_BYTES_MAX - rest.len();
        SequenceText { bytes, length }
    }

    /// Parses the text written by [`Sequence::text`]; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (stream, number) = text.split_once('-')?;
        if stream.len() != 16 {
            return None;
        }
        Some(Self { stream: u64::from_str_radix(stream, 16).ok()?, number: number.parse().ok()? })
    }
}

impl SequenceText {
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (stream, number) in [(0, 0), (1, 1), (u64::MAX, u64::MAX), (0x9f3c_0000_0000_0001, 1_042)] {
            let sequence = Sequence { stream, number };
            let text = sequence.text();
            assert_eq!(Sequence::parse(std::str::from_utf8(text.as_bytes()).unwrap()), Some(sequence));
        }
        assert_eq!(Sequence { stream: 255, number: 7 }.text().as_bytes(), b"00000000000000ff-7");
        for other in ["", "-", "1-2", "00000000000000ff", "00000000000000ff-", "00000000000000fg-1"] {
            assert_eq!(Sequence::parse(other), None, "{other}");
        }
    }
}
