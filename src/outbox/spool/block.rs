//! One event batch on disk: length, checksum, contents.

use std::io::{self, ErrorKind, Read};

use super::EventBatch;

/// Size of a block's header, in bytes: length and checksum.
const HEADER_BYTES: usize = 8;
/// Upper bound of a block's contents in bytes. A larger length means that the file is damaged.
const MAX_BLOCK_BYTES: u32 = 1 << 30;

/// Encodes `batch` into `block`, replacing its contents.
pub(super) fn write(batch: &EventBatch, block: &mut Vec<u8>) {
    block.clear();
    block.extend_from_slice(&[0; HEADER_BYTES]);
    batch.write(block);
    let (header, body) = block.split_at_mut(HEADER_BYTES);
    let length = u32::try_from(body.len()).unwrap_or(MAX_BLOCK_BYTES).to_le_bytes();
    let checksum = checksum(length, body).to_le_bytes();
    header.copy_from_slice([length, checksum].as_flattened());
}

/// Reads the next batch and the length of its block, which has at most `room` bytes. `None` if the block is incomplete
/// or damaged.
pub(super) fn read(from: &mut impl Read, room: u64) -> io::Result<Option<(EventBatch, u64)>> {
    let mut header = [0; HEADER_BYTES];
    if !fill(from, &mut header)? {
        return Ok(None);
    }
    let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
    let (length, sum) = ([l0, l1, l2, l3], u32::from_le_bytes([c0, c1, c2, c3]));
    let body_length = u32::from_le_bytes(length);
    let whole = u64::from(body_length) + HEADER_BYTES as u64;
    if whole > room || body_length > MAX_BLOCK_BYTES {
        return Ok(None);
    }
    let mut body = vec![0; body_length as usize];
    if !fill(from, &mut body)? || checksum(length, &body) != sum {
        return Ok(None);
    }
    Ok(EventBatch::from_bytes(&body).map(|batch| (batch, whole)))
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}

/// Fills the buffer. `false` if the file ends before.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
