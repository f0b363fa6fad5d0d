//! Queue of event batches on disk: appended at one end, read and removed at the other, in order.
//!
//! ```text
//!  {state_dir}/spool/0000000000000007.spool   blocks: length, checksum, parcel
//!  {state_dir}/spool/0000000000000008.spool   ◄── appended
//!  {state_dir}/spool/acknowledged             position up to which Kafka has acknowledged, written periodically
//! ```
//!
//! A killed process leaves at most one incomplete block at the end of its last segment. The next process reads up to
//! that block, and never appends to a segment that it did not create.

mod block;
mod files;
mod syncer;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

use self::files::Files;
use self::syncer::Syncer;
use super::EventBatch;

/// Size in bytes at which a segment is closed.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Size of the buffer for reading a segment, in bytes.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// Position between two blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub segment: u64,
    pub offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    number: u64,
    bytes: u64,
}

/// Reason why a batch could not be appended.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the spool has reached its size limit (FLAGSTREAM_API__SPOOL_MAX_BYTES)")]
    Full,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl SpoolError {
    /// Whether there is no space left, by the spool's limit or on the disk.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind as Kind;
        match self {
            Self::Full => true,
            Self::Io(error) => {
                matches!(error.kind(), Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge)
            }
        }
    }
}

/// Result of [`Spool::next`].
#[derive(Debug)]
pub enum Next {
    EventBatch(EventBatch, Position),
    /// The rest of a segment is unreadable and is skipped.
    Damaged {
        segment: u64,
        bytes: u64,
    },
    /// The end was reached: everything was read.
    End,
}

#[derive(Debug)]
pub struct Spool {
    files: Files,
    max_bytes: u64,
    /// Segments on disk, oldest first.
    segments: VecDeque<Segment>,
    /// Last segment, if this process created it.
    writer: Option<File>,
    reader: Option<(u64, BufReader<File>)>,
    /// Position of the next block to read.
    read: Position,
    acknowledged: Position,
    /// Acknowledged position as stored on disk.
    noted: Position,
    unsynced: bool,
    syncer: Syncer,
    block: Vec<u8>,
}

impl Spool {
    /// Opens the spool in `folder`, with what a previous process left in it.
    pub fn open(folder: &Path, max_bytes: u64) -> io::Result<Self> {
        let files = Files::open(folder)?;
        let segments: VecDeque<_> =
            files.segments()?.into_iter().map(|(number, bytes)| Segment { number, bytes }).collect();
        let start = segments.front().map_or(Position::default(), |first| Position::start_of(first.number));
        let noted = files.acknowledged().filter(|noted| *noted > start).unwrap_or(start);
        let mut spool = Self {
            files,
            max_bytes,
            segments,
            writer: None,
            reader: None,
            read: noted,
            acknowledged: noted,
            noted,
            unsynced: false,
            syncer: Syncer::start()?,
            block: Vec::new(),
        };
        spool.remove_acknowledged()?;
        Ok(spool)
    }

    /// Size on disk in bytes.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether everything was read.
    pub fn is_read(&self) -> bool {
        self.read >= self.end()
    }

    /// Appends a batch. Returns the position behind it.
    pub fn append(&mut self, batch: &EventBatch) -> Result<Position, SpoolError> {
        block::write(batch, &mut self.block);
        let length = self.block.len() as u64;
        if self.bytes() + length > self.max_bytes {
            return Err(SpoolError::Full);
        }
        if self.writer.is_none() || self.segments.back().is_none_or(|last| last.bytes >= SEGMENT_BYTES) {
            self.begin_segment()?;
        }
        let (Some(writer), Some(last)) = (&mut self.writer, self.segments.back_mut()) else {
            return Err(SpoolError::Full);
        };
        if let Err(error) = writer.write_all(&self.block) {
            // A part of the block may be written. If it cannot be truncated, the segment is closed. Without truncation,
            // each failure would start a new segment, and an outage would leave thousands of them.
            if writer.set_len(last.bytes).is_err() {
                self.writer = None;
            }
            return Err(error.into());
        }
        last.bytes += length;
        self.unsynced = true;
        Ok(Position { segment: last.number, offset: last.bytes })
    }

    /// Skips everything appended so far, because it was already sent from memory.
    pub fn skip_to_end(&mut self) {
        self.read = self.end();
        // The open reader is positioned before the skipped blocks, perhaps in the same segment.
        self.reader = None;
    }

    /// Reads the next batch, with the position behind it.
    pub fn next(&mut self) -> io::Result<Next> {
        loop {
            if self.is_read() {
                return Ok(Next::End);
            }
            let Some(segment) = self.segments.iter().find(|s| s.number >= self.read.segment).copied() else {
                return Ok(Next::End);
            };
            if segment.number > self.read.segment {
                self.read = Position::start_of(segment.number);
            }
            if self.read.offset >= segment.bytes {
                self.read = Position::start_of(segment.number + 1);
                continue;
            }
            let room = segment.bytes - self.read.offset;
            let reader = self.reader_at_position()?;
            let Some((batch, length)) = block::read(reader, room)? else {
                self.read = Position::start_of(segment.number + 1);
                self.reader = None;
                // Nothing may be appended behind the skipped part.
                self.writer = None;
                return Ok(Next::Damaged { segment: segment.number, bytes: room });
            };
            self.read.offset += length;
            return Ok(Next::EventBatch(batch, self.read));
        }
    }

    /// Records that Kafka has acknowledged everything before this position.
    pub fn acknowledge(&mut self, position: Position) -> io::Result<()> {
        self.acknowledged = self.acknowledged.max(position);
        self.remove_acknowledged()
    }

    /// Removes everything. Called once everything is acknowledged.
    pub fn clear(&mut self) -> io::Result<()> {
        self.acknowledged = self.end();
        self.read = self.acknowledged;
        self.reader = None;
        self.writer = None;
        while let Some(segment) = self.segments.front().copied() {
            self.files.remove(segment.number)?;
            self.segments.pop_front();
        }
        self.unsynced = false;
        Ok(())
    }

    /// Starts a sync of appended blocks in the background, so that they survive a power failure, and stores the
    /// acknowledged position. Returns the error of an earlier sync, if there was one.
    pub fn sync(&mut self) -> io::Result<()> {
        self.syncer.told()?;
        if let Some(writer) = self.writer.as_ref().filter(|_| self.unsynced && self.syncer.is_idle()) {
            self.syncer.sync(writer)?;
            self.unsynced = false;
        }
        if self.acknowledged != self.noted {
            self.files.note_acknowledged(self.acknowledged)?;
            self.noted = self.acknowledged;
        }
        Ok(())
    }

    /// Waits until everything is synced to disk.
    pub fn finish(&mut self) -> io::Result<()> {
        self.syncer.wait()?;
        self.sync()?;
        self.syncer.wait()
    }

    /// Makes the next append fail as on a full disk.
    #[cfg(test)]
    pub(super) fn fail_next_append(&mut self) -> io::Result<()> {
        if self.writer.is_none() {
            self.begin_segment()?;
        }
        self.writer = Some(File::options().write(true).open("/dev/full")?);
        Ok(())
    }

    fn end(&self) -> Position {
        let last = self.segments.back();
        last.map_or(self.acknowledged, |last| Position { segment: last.number, offset: last.bytes })
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        if let Some(writer) = self.writer.take() {
            self.syncer.sync(&writer)?;
        }
        // Numbers are never reused, because the stored acknowledged position may be older than a segment.
        let number = self.segments.back().map_or(self.acknowledged.segment, |last| last.number) + 1;
        self.writer = Some(self.files.create(number)?);
        self.segments.push_back(Segment { number, bytes: 0 });
        Ok(())
    }

    fn reader_at_position(&mut self) -> io::Result<&mut BufReader<File>> {
        let Position { segment, offset } = self.read;
        let reader = match self.reader.take() {
            Some((open, reader)) if open == segment => reader,
            _ => {
                let mut file = self.files.read(segment)?;
                file.seek(SeekFrom::Start(offset))?;
                BufReader::with_capacity(READ_BUFFER_BYTES, file)
            }
        };
        let (_, reader) = self.reader.insert((segment, reader));
        Ok(reader)
    }

    fn remove_acknowledged(&mut self) -> io::Result<()> {
        while let Some(first) = self.segments.front().copied() {
            let is_last = self.segments.len() == 1;
            if is_last || first.number >= self.acknowledged.segment {
                break;
            }
            self.files.remove(first.number)?;
            self.segments.pop_front();
        }
        Ok(())
    }
}

impl Position {
    fn start_of(segment: u64) -> Self {
        Self { segment, offset: 0 }
    }
}

#[cfg(test)]
mod tests;
