//! Avro's primitive encodings.

use super::Broken;

/// Input that is consumed from its beginning.
#[derive(Debug)]
pub(super) struct Input<'b> {
    rest: &'b [u8],
}

impl<'b> Input<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn byte(&mut self) -> Result<u8, Broken> {
        let (first, rest) = self.rest.split_first().ok_or_else(short)?;
        self.rest = rest;
        Ok(*first)
    }

    /// Reads an `int` or a `long`: zigzag encoding, seven bits per byte.
    pub(super) fn long(&mut self) -> Result<i64, Broken> {
        let mut bits = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            bits |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
        }
        Err(Broken::new("a number is longer than 64 bits"))
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'b [u8], Broken> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn bytes(&mut self) -> Result<&'b [u8], Broken> {
        let count = self.long()?;
        self.take(usize::try_from(count).map_err(|_| Broken::new("a length is negative"))?)
    }

    pub(super) fn text(&mut self) -> Result<&'b str, Broken> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Broken::new("a string is not UTF-8"))
    }
}

fn short() -> Broken {
    Broken::new("the message ends in the middle of a value")
}

pub(super) fn write_long(out: &mut Vec<u8>, long: i64) {
    let mut bits = (long.cast_unsigned() << 1) ^ (long >> 63).cast_unsigned();
    while bits >= 0x80 {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    // The conversion cannot fail for a text of realistic length.
    write_long(out, i64::try_from(text.len()).unwrap_or(i64::MAX));
    out.extend_from_slice(text.as_bytes());
}
