//! The work on partitions between two batches: determine the assigned partitions and their first offsets, and report
//! positions, end offsets and partitions that cannot be read.

use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};

use super::Session;
use crate::evaluate::error::SessionError;
use crate::kafka::identity::Confirmed;
use crate::kafka::reading::{Expired, FaultKind, FetchFault};
use crate::log_limit::limited;
use crate::progress::Reason;
use crate::shutdown::pause;

/// Timeout of one lookup of the offsets of new partitions.
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(2);
/// Delay after a failed lookup.
const OFFSETS_RETRY_BACKOFF: Duration = Duration::from_millis(200);
/// Maximum age of the confirmation of the requests topic's id between batches. The thread that follows offsets confirms
/// the id several times in this interval.
const MAX_IDENTITY_AGE: Duration = Duration::from_secs(1);
/// Maximum age of the confirmed topic id after a rebalance. Several workers see the same rebalance, and one request
/// serves all of them.
const MAX_IDENTITY_AGE_AFTER_REBALANCE: Duration = Duration::from_millis(20);
/// Reasons that are cleared when Kafka answers a fetch.
const FETCH_REASONS: [Reason; 3] = [Reason::FetchError, Reason::Unauthorized, Reason::Unreadable];

impl Session<'_> {
    /// Follows rebalances. `false` if the first offset of a new partition is not known yet; nothing may be read then.
    ///
    /// A worker is up once it is a member of its group, even without requests or without an assigned partition.
    pub(super) fn follow_assignment(&mut self) -> Result<bool, SessionError> {
        self.state.tell_assigned(self.consumer.assigned(), &self.pipeline.metrics);
        let rebalances = self.consumer.rebalances();
        if self.state.rebalances != Some(rebalances) {
            let assigned = self.consumer.inner().assignment().map_err(SessionError::Consumer)?;
            let assigned = assigned.elements_for_topic(&self.pipeline.source);
            let assigned: Vec<i32> = assigned.iter().map(|element| element.partition()).collect();
            let status = &self.state.status;
            status.progress().assign(status.index(), &assigned);
            self.consumer.reading().retain(&assigned);
            self.state.fairness.retain(&assigned);
            self.state.reply_topics.retain(&assigned);
            self.state.begun.retain(|partition| assigned.contains(partition));
            let left = self.state.unpaired.retain(|partition| assigned.contains(&partition));
            self.resume(&left).map_err(SessionError::Consumer)?;
            let new: Vec<i32> =
                assigned.into_iter().filter(|partition| !self.state.begun.contains(partition)).collect();
            if let Err(error) = self.begin(&new) {
                let detail = format!("cannot read the committed offsets: {error}; retrying");
                let status = &self.state.status;
                status.progress().blocked_reader(status.index(), Reason::FetchError, detail);
                // A rejected lookup fails immediately; without a delay it would be repeated in a busy loop.
                pause(OFFSETS_RETRY_BACKOFF, &self.parts.shutdown);
                return Ok(false);
            }
            self.state.from_start &= new.is_empty();
            self.state.begun.extend(new);
            self.state.rebalances = Some(rebalances);
        }
        if let Some(trouble) = self.consumer.trouble() {
            self.state.status.degraded(format!("no partitions are assigned: {trouble}"));
            self.well = false;
        } else if rebalances > 0 && self.works() {
            self.report_well();
        }
        Ok(true)
    }

    /// Resumes revoked partitions. librdkafka keeps a partition paused in this client even after it was assigned
    /// elsewhere and came back.
    fn resume(&self, left: &[i32]) -> KafkaResult<()> {
        if left.is_empty() {
            return Ok(());
        }
        self.consumer.inner().resume(&self.list(left, Offset::Invalid)?)
    }

    /// Whether the worker can commit batches. After a failure this is true once a batch was committed, or if there is
    /// nothing to commit.
    fn works(&self) -> bool {
        let status = &self.state.status;
        !self.state.has_failed || status.progress().is_idle(status.index())
    }

    pub(super) fn report_well(&mut self) {
        let waits = !(self.state.paused.is_empty() && self.state.unpaired.is_empty());
        if !waits && !std::mem::replace(&mut self.well, true) {
            self.state.status.up();
        }
    }

    /// Checks that the requests topic is still the one that this worker reads. If it was created again, the positions
    /// are invalid: the batch must not be committed, and the new topic is read from its start.
    pub(super) fn confirm_topic(&mut self) -> Result<(), SessionError> {
        let client = self.consumer.inner().client();
        // The group revokes the partitions of a deleted topic, so a topic that was created again comes with a
        // rebalance.
        let is_settled = self.state.rebalances == Some(self.consumer.rebalances());
        let max_age = if is_settled { MAX_IDENTITY_AGE } else { MAX_IDENTITY_AGE_AFTER_REBALANCE };
        let found = self.state.status.identity().confirm(client, max_age);
        self.note_topic(found)
    }

    /// Checks the same before a commit, by an answer of Kafka that is later than every fetch of the batch: no record of a
    /// topic that was just created again is answered as one of its predecessor. The producer asks, because on the
    /// consumer's connection the answer would wait for the fetch that waits for records.
    pub(super) fn confirm_topic_of_batch(&mut self) -> Result<(), SessionError> {
        let found = self.state.status.identity().confirm_now(self.producer.inner().client());
        self.note_topic(found)
    }

    fn note_topic(&mut self, found: Confirmed) -> Result<(), SessionError> {
        let generation = found.generation;
        match self.state.topic.replace(found) {
            Some(before) if before.generation != generation => Err(SessionError::TopicRecreated),
            _ => Ok(()),
        }
    }

    /// Determines the first offsets of newly assigned partitions, and the records that were deleted before they were
    /// read.
    fn begin(&mut self, new: &[i32]) -> KafkaResult<()> {
        if new.is_empty() {
            return Ok(());
        }
        if self.state.from_start {
            return self.begin_at_start(new);
        }
        let progress = self.state.status.progress();
        let consumer = self.consumer.inner();
        let committed = consumer.committed_offsets(self.list(new, Offset::Invalid)?, OFFSETS_TIMEOUT)?;
        // A partition without a leader reports no offsets. It returns no records either, and deleted records are
        // detected later.
        let lows = consumer.offsets_for_times(self.list(new, Offset::Beginning)?, OFFSETS_TIMEOUT);
        let ends = consumer.offsets_for_times(self.list(new, Offset::End)?, OFFSETS_TIMEOUT);
        for element in committed.elements() {
            let partition = element.partition();
            progress.unblocked(partition, Reason::FetchError);
            let known = |offsets: &KafkaResult<TopicPartitionList>| {
                let found = offsets.as_ref().ok()?.find_partition(element.topic(), partition)?;
                found.error().ok()?;
                found.offset().to_raw().filter(|offset| *offset >= 0)
            };
            let (low, end) = (known(&lows), known(&ends));
            match (element.error(), element.offset()) {
                (Err(error), _) => {
                    tracing::debug!(partition, %error, "the committed offset of the partition cannot be read")
                }
                (Ok(()), Offset::Offset(next)) => self.begin_at(partition, next, low, end),
                (Ok(()), _) => self.begin_anew(partition, low, end),
            }
        }
        Ok(())
    }

    /// Starts at the first record and ignores the committed offsets, which belong to a deleted topic of the same name.
    fn begin_at_start(&mut self, new: &[i32]) -> KafkaResult<()> {
        let consumer = self.consumer.inner();
        let lows = consumer.offsets_for_times(self.list(new, Offset::Beginning)?, OFFSETS_TIMEOUT)?;
        lows.elements().iter().try_for_each(|element| element.error())?;
        let sought = consumer.seek_partitions(lows.clone(), OFFSETS_TIMEOUT)?;
        sought.elements().iter().try_for_each(|element| element.error())?;
        // The committed offset must point there too: the next session, or the next process, starts from it.
        self.consumer.commit_last(lows.clone())?;
        for element in lows.elements() {
            self.consumer.discard(element.partition());
            if let Offset::Offset(low) = element.offset() {
                self.consumer.reading().starts_at(element.partition(), low);
                self.state.status.progress().committed(element.partition(), low);
            }
        }
        Ok(())
    }

    fn begin_at(&self, partition: i32, next: i64, low: Option<i64>, end: Option<i64>) {
        let topic = &self.pipeline.source;
        self.state.status.progress().starts_at(partition, next);
        self.consumer.reading().starts_at(partition, next);
        if let Some(low) = low.filter(|low| *low > next) {
            self.consumer.reading().expired(Expired::of(partition, next, low));
            self.skip_to(partition, low);
        }
        if let Some(end) = end.filter(|end| *end < next) {
            limited!(
                error,
                key = &partition.to_string(),
                topic,
                partition,
                committed = next,
                end,
                "the partition ends before the committed offset: its log was truncated, or the topic was \
                 recreated; it is read from its beginning",
            );
        }
    }

    /// Starts a partition without a committed offset: it is new, or the group's offsets have expired.
    fn begin_anew(&self, partition: i32, low: Option<i64>, end: Option<i64>) {
        let (Some(low), Some(end)) = (low, end) else { return };
        self.state.status.progress().starts_at(partition, low);
        self.consumer.reading().starts_at(partition, low);
        let waiting = u64::try_from(end - low).unwrap_or_default();
        if waiting > 0 {
            self.pipeline.metrics.without_offset(partition, waiting);
            limited!(
                warn,
                key = &partition.to_string(),
                topic = self.pipeline.source,
                partition,
                from = low,
                to = end,
                "the group has no committed offset for a partition with records; all records are \
                 processed. If they were processed before, the group's offsets have expired, and their \
                 events are repeated with the same ids",
            );
        }
    }

    /// Continues at `low` and commits that offset, so that the deleted records are not counted again after a restart.
    fn skip_to(&self, partition: i32, low: i64) {
        self.consumer.reading().starts_at(partition, low);
        let committed = self.list(&[partition], Offset::Offset(low));
        let committed =
            committed.and_then(|offsets| self.consumer.inner().commit(&offsets, CommitMode::Async));
        match committed {
            Ok(()) => self.state.status.progress().committed(partition, low),
            Err(error) => tracing::debug!(partition, %error, "the first offset could not be committed"),
        }
    }

    /// Counts and logs the requests that were deleted before they were read.
    pub(super) fn report_expired(&self) {
        for Expired { partition, from, to, count } in self.consumer.reading().take_expired() {
            self.pipeline.metrics.expired(partition, count);
            let topic = &self.pipeline.source;
            limited!(
                error,
                key = &partition.to_string(),
                topic,
                partition,
                from,
                to,
                count,
                "Kafka deleted requests before they were read",
            );
        }
    }

    /// Reports position and end offset of each partition. Called only between batches, when every fetched record is
    /// committed or deferred. `idle` if the last batch had no records.
    pub(super) fn report_positions(&mut self, idle: bool) {
        self.positions_reported = Instant::now();
        let Ok(positions) = self.consumer.inner().position() else { return };
        let progress = self.state.status.progress();
        for element in positions.elements_for_topic(&self.pipeline.source) {
            let partition = element.partition();
            // A paused partition is not fetched, so its end offset is unknown here.
            if self.state.paused.has_partition(partition) || self.state.unpaired.has(partition) {
                continue;
            }
            let ends = self.consumer.watermarks(partition);
            if let Some((_, end)) = ends {
                progress.end(partition, end);
            }
            if self.report_fault(partition, ends.is_some()) {
                continue;
            }
            // Taken records count as read in librdkafka.
            let position = element.offset().to_raw().filter(|position| *position >= 0);
            if let Some(position) = self.consumer.first_taken(partition).or(position) {
                progress.position(partition, position);
            }
            if let Some((low, _)) = ends.filter(|_| idle && self.consumer.waiting_in(partition) == 0)
                && let Some(low) = self.consumer.reading().is_idle(partition, low)
            {
                self.skip_to(partition, low);
            }
        }
    }

    /// Reports whether the partition cannot be read. `answered` if Kafka's last answer to a fetch was not an error.
    fn report_fault(&self, partition: i32, answered: bool) -> bool {
        let progress = self.state.status.progress();
        let mut reading = self.consumer.reading();
        let fault = reading.faults().find(|(faulty, _)| *faulty == partition).map(|(_, fault)| fault.clone());
        // Kafka answers again, but no record will arrive that could clear the fault.
        if fault.is_some() && answered && progress.lag(partition) == Some(0) {
            reading.end_fault(partition);
        } else if let Some(fault) = fault {
            progress.blocked(partition, reason(&fault), fault.detail);
            return true;
        }
        if answered {
            FETCH_REASONS.into_iter().for_each(|reason| progress.unblocked(partition, reason));
        }
        false
    }

    pub(super) fn list(&self, partitions: &[i32], offset: Offset) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition_offset(&self.pipeline.source, *partition, offset)?;
        }
        Ok(list)
    }
}

fn reason(fault: &FetchFault) -> Reason {
    match fault.kind() {
        FaultKind::Unauthorized => Reason::Unauthorized,
        FaultKind::Unreadable => Reason::Unreadable,
        FaultKind::Other => Reason::FetchError,
    }
}
