//! Divides a worker's time fairly between its partitions.
//!
//! A worker commits its partitions together, so expensive requests in one partition delay the answers in all others. Two
//! rules bound this delay, whatever makes the requests expensive:
//!
//! 1. *Least work first.* Each partition has an account of the work that was done for it. In each round the partitions
//!    take turns in the order of their accounts. A partition that is ahead of the least account by more than one turn is
//!    left out, so a partition takes more than its share only of what the others do not need.
//! 2. *A batch is long only for a backlog.* Once a batch has all waiting records of a partition, it is committed soon,
//!    whatever waits in other partitions.
//!
//! Work is what [`Batch::work`](super::batch::Batch::work) counts: results and their bytes, not time, which a busy machine
//! would charge to the wrong partition.

use std::collections::BTreeMap;

/// Work of one turn. It ends with the record that reaches it.
pub const TURN_WORK: u64 = 128 << 10;
/// There is a backlog if this much work waits in all partitions together.
const BACKLOG_WORK: u64 = 2 << 20;
/// Assumed work of a record of a partition that had none yet.
const UNKNOWN_RECORD_WORK: u64 = 1 << 10;
/// Share of the last turn in the average work of a record: one part in so many.
const SMOOTHING: u64 = 4;

/// The accounts of one worker's partitions.
#[derive(Debug, Default)]
pub struct Fairness {
    accounts: BTreeMap<i32, Account>,
    /// The least account in the last round. A partition that had nothing to read begins here: it saves up nothing.
    clock: u64,
    /// The turns of the current round in order: account and partition.
    turns: Vec<(u64, i32)>,
    /// Work that waited in all partitions at the start of the current round.
    waiting_work: u64,
    /// Whether the open batch has all waiting records of a partition.
    has_caught_up: bool,
}

#[derive(Debug)]
struct Account {
    work: u64,
    /// Average work of a record.
    record_work: u64,
}

impl Fairness {
    /// Begins a batch.
    pub fn begin_batch(&mut self) {
        self.has_caught_up = false;
    }

    /// Begins a round with the partitions that have waiting records, and the number of these records.
    pub fn begin_round(&mut self, waiting: impl Iterator<Item = (i32, usize)>) {
        self.turns.clear();
        self.waiting_work = 0;
        for (partition, records) in waiting {
            let new = Account { work: self.clock, record_work: UNKNOWN_RECORD_WORK };
            let account = self.accounts.entry(partition).or_insert(new);
            account.work = account.work.max(self.clock);
            self.turns.push((account.work, partition));
            let records = u64::try_from(records).unwrap_or(u64::MAX);
            self.waiting_work = self.waiting_work.saturating_add(account.record_work.saturating_mul(records));
        }
        self.turns.sort_unstable();
        let Some((least, _)) = self.turns.first().copied() else { return };
        self.clock = least;
        self.turns.retain(|(work, _)| *work <= least + TURN_WORK);
    }

    /// The partition of a turn of this round; `None` after the last one.
    pub fn turn(&self, number: usize) -> Option<i32> {
        self.turns.get(number).map(|(_, partition)| *partition)
    }

    /// Ends a turn: `work` was done for `records`, and `left` records wait now.
    pub fn charge(&mut self, partition: i32, records: usize, work: u64, left: usize) {
        let average = u64::try_from(records).ok().and_then(|records| work.checked_div(records));
        let (Some(average), Some(account)) = (average, self.accounts.get_mut(&partition)) else { return };
        account.work += work;
        account.record_work = (account.record_work * (SMOOTHING - 1) + average) / SMOOTHING;
        self.has_caught_up |= left == 0;
    }

    /// Whether the open batch has only backlogs: much work waits, and no partition is waiting for the commit alone.
    pub fn has_only_backlogs(&self) -> bool {
        self.waiting_work >= BACKLOG_WORK && !self.has_caught_up
    }

    /// Closes the accounts of partitions that are not assigned any more.
    pub fn retain(&mut self, assigned: &[i32]) {
        self.accounts.retain(|partition, _| assigned.contains(partition));
    }
}

#[cfg(test)]
#[path = "fairness_tests.rs"]
mod tests;
