//! Parcels on disk: appended at one end, read and removed at the other, in their order.
//!
//! ```text
//!  {state_dir}/spool/0000000000000007.spool   blocks: length, checksum, parcel
//!  {state_dir}/spool/0000000000000008.spool   ◄── appended
//!  {state_dir}/spool/acknowledged             up to where Kafka has them, written now and then
//! ```
//!
//! A process that was killed leaves at most a torn block at the end of its last segment: a later one reads up to it,
//! and never appends to a segment that it did not begin.

mod block;
mod files;
mod syncer;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

use self::files::Files;
use self::syncer::Syncer;
use super::Parcel;

/// A segment is closed when it has grown to this.
const SEGMENT_BYTES: u64 = 16 << 20;
const READ_BUFFER_BYTES: usize = 256 << 10;

/// A place between two blocks.
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

/// Why a parcel is not on disk.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the spool is full")]
    Full,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl SpoolError {
    /// Whether there is no room: by the limit of the spool, or on its disk.
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

/// What [`Spool::next`] found.
#[derive(Debug)]
pub enum Next {
    Parcel(Parcel, Position),
    /// The rest of a segment cannot be read; it is skipped.
    Damaged {
        segment: u64,
        bytes: u64,
    },
    /// There is nothing more.
    End,
}

#[derive(Debug)]
pub struct Spool {
    files: Files,
    max_bytes: u64,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The last segment, if this process began it.
    writer: Option<File>,
    reader: Option<(u64, BufReader<File>)>,
    /// What is to be read next.
    read: Position,
    acknowledged: Position,
    /// The acknowledged position as it is on disk.
    noted: Position,
    unsynced: bool,
    syncer: Syncer,
    block: Vec<u8>,
}

impl Spool {
    /// Opens the spool in `folder` with what a former process left there.
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

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether everything was read.
    pub fn is_read(&self) -> bool {
        self.read >= self.end()
    }

    /// Appends a parcel; the place behind it.
    pub fn append(&mut self, parcel: &Parcel) -> Result<Position, SpoolError> {
        block::write(parcel, &mut self.block);
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
            // Perhaps half of it is there. Where that cannot be undone, the rest of the segment is given up. Each failure
            // would otherwise begin a segment, and an outage leave thousands of them.
            if writer.set_len(last.bytes).is_err() {
                self.writer = None;
            }
            return Err(error.into());
        }
        last.bytes += length;
        self.unsynced = true;
        Ok(Position { segment: last.number, offset: last.bytes })
    }

    /// Everything appended so far was sent already: reading goes on behind it.
    pub fn skip_to_end(&mut self) {
        self.read = self.end();
        // It stands before what is skipped, perhaps in the same segment.
        self.reader = None;
    }

    /// The next parcel that was not read yet, with the place behind it.
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
            let Some((parcel, length)) = block::read(reader, room)? else {
                self.read = Position::start_of(segment.number + 1);
                self.reader = None;
                // Nothing may be appended behind what is skipped.
                self.writer = None;
                return Ok(Next::Damaged { segment: segment.number, bytes: room });
            };
            self.read.offset += length;
            return Ok(Next::Parcel(parcel, self.read));
        }
    }

    /// Kafka has everything before this place.
    pub fn acknowledge(&mut self, position: Position) -> io::Result<()> {
        self.acknowledged = self.acknowledged.max(position);
        self.remove_acknowledged()
    }

    /// Removes everything; meant for when all of it is acknowledged.
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

    /// Sees to it that what was appended survives a power cut, as soon as the disk has it, and notes what was
    /// acknowledged.
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

    /// Waits until all of it is on disk.
    pub fn finish(&mut self) -> io::Result<()> {
        self.syncer.wait()?;
        self.sync()?;
        self.syncer.wait()
    }

    /// Lets the next append fail as on a full disk.
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
        // Numbers are never used twice: a note of what is acknowledged may be older than a segment.
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
