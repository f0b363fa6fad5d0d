//! Reads the topic of each table into the table, on a thread for each.
//!
//! ```text
//!  topic ─► batch: rows by key, malformed rows ─┬─► dead letters (acknowledged first)
//!                                               └─► table: rows and offsets, written together
//! ```
//!
//! A new build of a table (`rebuild`) begins at the start of the topic. The rows of the build before stay in force until
//! the topic has been read to its end; then those that the topic does not have any more are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::Utc;
use prometheus_client::metrics::counter::Counter;
use rdkafka::Message;

use crate::config::Config;
use crate::kafka::backoff::Backoff;
use crate::kafka::identity::TopicIdentity;
use crate::kafka::table::{Polled, TableReader};
use crate::kafka::tail::FollowError;
use crate::log_limit::limited;
use crate::message::avro::Subject;
use crate::message::request::Refusal;
use crate::metrics::Metrics;
use crate::schema_registry::{Formats, Reader, Undecodable};
use crate::shutdown::{Shutdown, Threads, pause};

use super::dead_letters::{DeadLetterError, DeadLetters, MalformedRow, headers_of};
use super::state::{FoundTopic, State, cut};
use super::table::Changes;
use super::{Attributes, Row, Table, TableError, check_key, check_row};

/// Timeout of one request to the broker. A stop of the process waits for it.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a poll waits for the first record of a batch.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum records of a batch.
const BATCH_RECORDS: usize = 8_192;
/// Size of keys and values above which a batch ends, in bytes.
const BATCH_BYTES: usize = 4 << 20;
/// Rows that are examined between two batches while rows of an earlier build are removed.
const SWEEP_ROWS: usize = 20_000;
/// Interval of the checks of the topic's id and bounds.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which the time of the topic's last seen end is stored.
const SEEN_INTERVAL_MS: i64 = 60_000;
/// Delay before a row is read again whose schema cannot be looked up.
const SCHEMA_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Delay before the first restart of a failed session; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Longest delay before the restart of a failed session.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The running readers of all tables.
#[derive(Debug)]
pub struct TableReaders {
    threads: Vec<JoinHandle<()>>,
}

impl TableReaders {
    pub(super) fn start(
        attributes: &Arc<Attributes>,
        config: &Arc<Config>,
        formats: &Arc<Formats>,
        metrics: &Arc<Metrics>,
        shutdown: &Shutdown,
    ) -> std::io::Result<Self> {
        let threads = attributes.tables().iter().map(|table| {
            let worker = Worker {
                table: Arc::clone(table),
                attributes: Arc::clone(attributes),
                identity: TopicIdentity::new(
                    table.topic(),
                    config.audit.log_id.is_none(),
                    Counter::default(),
                ),
                reader: formats.reader(Subject::FOREIGN, config.formats.attributes).waiting(),
                dead_letters: DeadLetters::new(config, table.name(), metrics, shutdown),
                config: Arc::clone(config),
                shutdown: shutdown.clone(),
                text: Vec::new(),
            };
            let name = format!("attributes-{}", table.name());
            std::thread::Builder::new().name(name).spawn(move || worker.run())
        });
        Ok(Self { threads: threads.collect::<Result<_, _>>()? })
    }
}

impl Threads for TableReaders {
    fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    fn join(self) -> bool {
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        ended.iter().all(Result::is_ok)
    }
}

/// Reason why a session has failed. The next one continues behind the last batch in the table.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("{0}")]
    Kafka(#[from] FollowError),
    #[error("{0}")]
    Table(#[from] TableError),
    #[error("{0}")]
    DeadLetters(#[from] DeadLetterError),
    #[error("the id of topic {0} cannot be read")]
    NoId(String),
}

/// End of a session without an error.
enum Ended {
    Shutdown,
    /// The topic is not the one that was read, or lost records; the next session finds out what to do.
    TopicChanged,
}

/// Reader of one table.
struct Worker {
    table: Arc<Table>,
    attributes: Arc<Attributes>,
    identity: TopicIdentity,
    reader: Reader,
    dead_letters: DeadLetters,
    config: Arc<Config>,
    shutdown: Shutdown,
    /// Buffer for the JSON of a row in Avro.
    text: Vec<u8>,
}

/// Progress of a session.
struct Progress {
    state: State,
    /// Partitions of which everything was read that was there at some time of this session.
    ended: BTreeSet<i32>,
    /// The offset behind the last record of each other partition, when it was last looked up.
    targets: BTreeMap<i32, i64>,
    /// Partitions with records that were not read yet, as far as known.
    behind: BTreeSet<i32>,
    /// Last key that was examined for rows of an earlier build.
    swept_to: Option<Vec<u8>>,
    checked: Instant,
    next_checked: usize,
}

/// The records of one batch.
#[derive(Default)]
struct Batch {
    changes: Changes,
    malformed: Vec<MalformedRow>,
    /// The next offset of each partition with records.
    offsets: BTreeMap<i32, i64>,
    bytes: usize,
    deleted: u64,
    records: u64,
    is_out_of_range: bool,
    failure: Option<String>,
    /// Whether the schema of the next record cannot be looked up, so that reading starts again behind the batch.
    is_held: bool,
}

impl Worker {
    fn run(mut self) {
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        while !self.shutdown.is_cancelled() {
            let started = Instant::now();
            let error = match self.session() {
                Ok(Ended::Shutdown) => return,
                Ok(Ended::TopicChanged) => continue,
                Err(error) => error.to_string(),
            };
            let table = self.table.name();
            limited!(warn, key = &error, table, %error, "a table of attributes stands still; retrying");
            self.table.status().failed(Some(error));
            if started.elapsed() > MAX_BACKOFF {
                backoff.reset();
            }
            pause(backoff.jittered(), &self.shutdown);
        }
    }

    fn session(&mut self) -> Result<Ended, SessionError> {
        let role = format!("attributes-{}", self.table.name());
        let reader = TableReader::open(&self.config.kafka, &role, self.table.topic(), CALL_TIMEOUT)?;
        let mut progress = self.resume(&reader)?;
        reader.start(&progress.state.offsets)?;
        while !self.shutdown.is_cancelled() {
            let batch = self.collect(&reader, &mut progress)?;
            let (is_out_of_range, is_held) = (batch.is_out_of_range, batch.is_held);
            if batch.failure.is_some() {
                self.table.status().failed(batch.failure.clone());
            }
            self.apply(&reader, &mut progress, batch)?;
            if is_out_of_range {
                self.rebuild(&mut progress.state, "the topic was truncated")?;
                return Ok(Ended::TopicChanged);
            }
            if is_held {
                pause(SCHEMA_RETRY_DELAY, &self.shutdown);
                reader.start(&progress.state.offsets)?;
            }
            self.advance(&mut progress, &reader)?;
            if progress.checked.elapsed() >= CHECK_INTERVAL && self.has_changed(&reader, &mut progress)? {
                return Ok(Ended::TopicChanged);
            }
        }
        if progress.has_caught_up(&reader) {
            progress.state.seen_ms = Utc::now().timestamp_millis();
            self.table.store(&progress.state)?;
        }
        Ok(Ended::Shutdown)
    }

    /// Decides where reading starts: behind what the table has, or at the beginning of the topic.
    fn resume(&self, reader: &TableReader) -> Result<Progress, SessionError> {
        let id = self.topic_id(reader)?;
        let mut bounds = BTreeMap::new();
        for partition in reader.partitions() {
            bounds.insert(*partition, reader.bounds(*partition, CALL_TIMEOUT)?);
        }
        let mut state = self.table.state()?;
        let found = FoundTopic { topic: self.table.topic(), id: &id, bounds: &bounds };
        if let Some(reason) = state.outdated(&found, Utc::now().timestamp_millis()) {
            self.build(&mut state, &id, reason)?;
        }
        if !state.is_swept {
            self.table.status().building("the topic is read from its beginning");
        }
        self.table.status().failed(None);
        let to_read = bounds.iter().map(|(partition, (low, high))| {
            let next = state.offsets.get(partition).copied().unwrap_or(*low);
            u64::try_from(high - next).unwrap_or(0)
        });
        let lag = to_read.sum();
        self.note(&state, Some(lag));
        Ok(Progress {
            state,
            ended: BTreeSet::new(),
            targets: bounds.iter().map(|(partition, (_, high))| (*partition, *high)).collect(),
            behind: reader.partitions().iter().copied().collect(),
            swept_to: None,
            checked: Instant::now(),
            next_checked: 0,
        })
    }

    /// The id of the topic; of the embedded broker's topics, that of its start.
    fn topic_id(&self, reader: &TableReader) -> Result<String, SessionError> {
        if let Some(id) = &self.config.audit.log_id {
            return Ok(id.clone());
        }
        let confirmed = self.identity.confirm(reader.client(), Duration::ZERO);
        let id = confirmed.id.ok_or_else(|| SessionError::NoId(self.table.topic().to_owned()))?;
        Ok(id.as_ref().to_owned())
    }

    fn rebuild(&self, state: &mut State, reason: &'static str) -> Result<(), TableError> {
        let id = state.topic_id.clone();
        self.build(state, &id, reason)
    }

    /// Begins a new build. The rows of the last one stay until it is complete.
    fn build(&self, state: &mut State, id: &str, reason: &'static str) -> Result<(), TableError> {
        let table = self.table.name();
        if state.epoch > 0 {
            limited!(warn, key = table, table, reason, "a table of attributes is built again from its topic");
            self.table.metrics().rebuilds.inc();
        }
        *state = state.anew(self.table.topic(), id, Utc::now().timestamp_millis());
        self.table.store(state)?;
        self.table.status().building(reason);
        Ok(())
    }

    /// Polls until nothing more has arrived, or the batch is full.
    fn collect(&mut self, reader: &TableReader, progress: &mut Progress) -> Result<Batch, SessionError> {
        let mut batch = Batch::default();
        let is_sweeping = progress.swept_to.is_some();
        let mut timeout = if is_sweeping { Duration::ZERO } else { POLL_INTERVAL };
        while batch.records < BATCH_RECORDS as u64 && batch.bytes < BATCH_BYTES {
            match reader.poll(timeout)? {
                Polled::Nothing => break,
                Polled::End(partition) => {
                    progress.ended.insert(partition);
                    progress.behind.remove(&partition);
                }
                Polled::Record(record) => {
                    progress.behind.insert(record.partition());
                    progress.reach(record.partition(), record.offset() + 1);
                    if !self.take(&record, &mut batch) {
                        batch.is_held = true;
                        break;
                    }
                }
                Polled::OutOfRange => {
                    batch.is_out_of_range = true;
                    break;
                }
                Polled::Failed(error) => {
                    batch.failure = Some(error.to_string());
                    break;
                }
            }
            timeout = Duration::ZERO;
        }
        Ok(batch)
    }

    /// Adds a record to the batch; `false` if its schema cannot be looked up at the moment.
    fn take(&mut self, record: &impl Message, batch: &mut Batch) -> bool {
        let (partition, offset) = (record.partition(), record.offset());
        let row = match self.read(record) {
            Ok(row) => row,
            Err(Unread::Held(why)) => {
                self.table.status().failed(Some(why));
                return false;
            }
            Err(Unread::Malformed(refusal)) => {
                batch.bytes += record.payload().map_or(0, <[u8]>::len);
                batch.malformed.push(MalformedRow {
                    partition,
                    offset,
                    key: record.key().map(<[u8]>::to_vec),
                    body: record.payload().map(<[u8]>::to_vec),
                    headers: headers_of(record.headers()),
                    refusal,
                });
                batch.read(partition, offset);
                return true;
            }
        };
        let (key, row) = row;
        batch.bytes += key.len() + row.as_ref().map_or(0, |row| row.json.len());
        batch.deleted += u64::from(row.is_none());
        batch.changes.insert(key, row);
        batch.read(partition, offset);
        true
    }

    fn read(&mut self, record: &impl Message) -> Result<(Box<str>, Option<Row>), Unread> {
        let key = check_key(record.key())?.into();
        let Some(payload) = record.payload() else { return Ok((key, None)) };
        let max_bytes = self.attributes.max_row_bytes();
        let json = match self.reader.read(payload, &mut self.text, max_bytes) {
            Ok(json) => json,
            Err(Undecodable::Away(why) | Undecodable::Pending(why)) => {
                return Err(Unread::Held(why.to_string()));
            }
            Err(undecodable) => return Err(Refusal::from(undecodable).into()),
        };
        let json = check_row(json, max_bytes)?.into();
        Ok((key, Some(Row { partition: record.partition(), offset: record.offset(), json })))
    }

    /// Sends the batch's dead letters, and writes its rows together with the offsets behind it.
    fn apply(&self, reader: &TableReader, progress: &mut Progress, batch: Batch) -> Result<(), SessionError> {
        if batch.offsets.is_empty() {
            return Ok(());
        }
        if !batch.malformed.is_empty() {
            let (table, topic) = (self.table.name(), self.table.topic());
            self.dead_letters.send(reader, &batch.malformed)?;
            if let Some(first) = batch.malformed.first() {
                let MalformedRow { partition, offset, refusal, .. } = first;
                limited!(warn, key = table, table, topic, partition, offset, %refusal, "a row of attributes is malformed; \
                    it is a dead letter, and the row before it stays in force");
            }
            self.table.status().malformed(batch.malformed.len());
        }
        let malformed = batch.malformed.len() as u64;
        let mut next = progress.state.clone();
        next.offsets.extend(&batch.offsets);
        self.table.apply(&mut next, &batch.changes)?;
        progress.state = next;
        let metrics = self.table.metrics();
        metrics.read("malformed", malformed);
        metrics.read("deleted", batch.deleted);
        metrics.read("applied", batch.records - batch.deleted - malformed);
        if !batch.is_held {
            self.table.status().failed(None);
        }
        Ok(())
    }

    /// Continues the removal of rows of an earlier build, and notes that the table has caught up.
    fn advance(&self, progress: &mut Progress, reader: &TableReader) -> Result<(), SessionError> {
        let has_read_all = progress.ended.len() == reader.partitions().len();
        if has_read_all && !progress.state.is_swept {
            let after = progress.swept_to.take();
            progress.swept_to = self.table.sweep(&mut progress.state, after.as_deref(), SWEEP_ROWS)?;
        }
        if progress.behind.is_empty() {
            self.note(&progress.state, None);
        }
        if progress.state.is_swept && has_read_all && self.table.status().caught_up() {
            let (table, rows) = (self.table.name(), progress.state.rows);
            tracing::info!(table, rows, "a table of attributes has caught up with its topic");
            progress.state.seen_ms = Utc::now().timestamp_millis();
            self.table.store(&progress.state)?;
            self.attributes.note_caught_up();
        }
        Ok(())
    }

    /// Checks that the topic is still the one that is read, and updates the lag. Returns whether it is another one, or
    /// lost records.
    fn has_changed(&self, reader: &TableReader, progress: &mut Progress) -> Result<bool, SessionError> {
        progress.checked = Instant::now();
        if self.config.audit.log_id.is_none() {
            let confirmed = self.identity.confirm(reader.client(), CHECK_INTERVAL);
            if confirmed.id.is_some_and(|id| *id != *progress.state.topic_id) {
                return Ok(true);
            }
        }
        let checked: Vec<i32> = match progress.behind.is_empty() {
            // One of them for each check shows that the broker answers.
            true => reader.partitions().iter().copied().cycle().skip(progress.next_checked).take(1).collect(),
            false => reader.partitions().to_vec(),
        };
        progress.next_checked = (progress.next_checked + 1) % reader.partitions().len().max(1);
        let mut lag = 0;
        for partition in checked {
            let (low, high) = match reader.bounds(partition, CALL_TIMEOUT) {
                Ok(bounds) => bounds,
                Err(error) => {
                    self.table.status().failed(Some(error.to_string()));
                    return Ok(false);
                }
            };
            let next = progress.state.offsets.get(&partition).copied();
            if let Some(reason) = next.and_then(|next| cut(next, Some((low, high)))) {
                self.rebuild(&mut progress.state, reason)?;
                return Ok(true);
            }
            if !progress.ended.contains(&partition) {
                progress.targets.insert(partition, high);
            }
            if progress.behind.contains(&partition) {
                lag += u64::try_from(high - next.unwrap_or(low)).unwrap_or(0);
            }
        }
        self.table.status().failed(None);
        self.note(&progress.state, (!progress.behind.is_empty()).then_some(lag));
        let now_ms = Utc::now().timestamp_millis();
        if progress.has_caught_up(reader) && now_ms - progress.state.seen_ms > SEEN_INTERVAL_MS {
            progress.state.seen_ms = now_ms;
            self.table.store(&progress.state)?;
        }
        Ok(false)
    }

    fn note(&self, state: &State, lag: Option<u64>) {
        self.table.status().progress(state.rows, lag);
        let metrics = self.table.metrics();
        metrics.rows.set(state.rows.cast_signed());
        metrics.lag.set(lag.unwrap_or(0).cast_signed());
    }
}

/// Reason why a record is no row.
enum Unread {
    Malformed(Refusal),
    /// The schema cannot be looked up at the moment.
    Held(String),
}

impl From<Refusal> for Unread {
    fn from(refusal: Refusal) -> Self {
        Self::Malformed(refusal)
    }
}

impl Progress {
    /// Notes that the records in front of `next` were read. The end of a partition that is written all the time is never
    /// reported, so what was its end a moment ago counts.
    fn reach(&mut self, partition: i32, next: i64) {
        if self.targets.get(&partition).is_some_and(|target| next >= *target) {
            self.ended.insert(partition);
        }
    }

    /// Whether the table has every row of the topic, and no other.
    fn has_caught_up(&self, reader: &TableReader) -> bool {
        self.state.is_swept && self.behind.is_empty() && self.ended.len() == reader.partitions().len()
    }
}

impl Batch {
    fn read(&mut self, partition: i32, offset: i64) {
        self.records += 1;
        self.offsets.insert(partition, offset + 1);
    }
}
