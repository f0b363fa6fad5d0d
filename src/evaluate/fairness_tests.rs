//! The rules of fairness, without Kafka and without a clock.

use super::*;

/// A partition whose records all take the same work.
#[derive(Clone, Copy)]
struct Backlog {
    partition: i32,
    records: usize,
    record_work: u64,
}

/// The worker's loop without its time limits: batches of at most `batch_work`. `arrive` adds records before each batch.
/// Returns the turns of each batch as (partition, records).
fn run(
    fairness: &mut Fairness,
    backlogs: &mut [Backlog],
    batches: usize,
    batch_work: u64,
    mut arrive: impl FnMut(&mut [Backlog]),
) -> Vec<Vec<(i32, usize)>> {
    let mut committed = Vec::new();
    for _ in 0..batches {
        arrive(backlogs);
        fairness.begin_batch();
        let (mut batch, mut work) = (Vec::new(), 0);
        loop {
            let waiting = backlogs.iter().filter(|backlog| backlog.records > 0);
            fairness.begin_round(waiting.map(|backlog| (backlog.partition, backlog.records)));
            let before = work;
            for number in 0.. {
                let Some(partition) = fairness.turn(number).filter(|_| work < batch_work) else { break };
                let backlog = backlogs.iter_mut().find(|backlog| backlog.partition == partition).unwrap();
                let (mut records, mut turn) = (0, 0);
                while backlog.records > 0 && turn < TURN_WORK && work < batch_work {
                    (backlog.records, records) = (backlog.records - 1, records + 1);
                    (turn, work) = (turn + backlog.record_work, work + backlog.record_work);
                }
                fairness.charge(partition, records, turn, backlog.records);
                batch.push((partition, records));
            }
            if work == before || work >= batch_work {
                break;
            }
        }
        committed.push(batch);
    }
    committed
}

fn total(batches: &[Vec<(i32, usize)>], partition: i32) -> usize {
    let turns = batches.iter().flatten();
    turns.filter(|(of, _)| *of == partition).map(|(_, records)| records).sum()
}

fn backlog(partition: i32, records: usize, record_work: u64) -> Backlog {
    Backlog { partition, records, record_work }
}

const CHEAP: u64 = 1 << 10;
/// A request of 1,000 flags.
const EXPENSIVE: u64 = 2 << 20;
const BATCH_WORK: u64 = 16 << 20;

#[test]
fn partitions_with_a_backlog_share_the_work_and_not_the_records() {
    let mut backlogs =
        [backlog(0, 100_000, EXPENSIVE), backlog(1, 100_000_000, CHEAP), backlog(2, 100_000_000, CHEAP)];
    let batches = run(&mut Fairness::default(), &mut backlogs, 100, BATCH_WORK, |_| {});
    let work = [0, 1, 2].map(|partition| total(&batches, partition) as u64);
    let work = [work[0] * EXPENSIVE, work[1] * CHEAP, work[2] * CHEAP];
    let share = work.iter().sum::<u64>() / 3;
    for work in work {
        assert!(work.abs_diff(share) <= EXPENSIVE + TURN_WORK, "{work} of {share}");
    }
}

#[test]
fn an_expensive_partition_gets_all_that_the_others_do_not_need() {
    let mut backlogs = [backlog(0, 1_000, EXPENSIVE), backlog(1, 0, CHEAP)];
    let batches =
        run(&mut Fairness::default(), &mut backlogs, 100, BATCH_WORK, |backlogs| backlogs[1].records += 1);
    assert_eq!(total(&batches, 1), 100, "each of the cheap ones in the batch that it arrived before");
    let full = (BATCH_WORK / EXPENSIVE) as usize;
    assert_eq!(total(&batches, 0), 100 * full);
}

#[test]
fn records_that_arrive_beside_a_backlog_come_before_its_next_record() {
    let mut fairness = Fairness::default();
    let mut backlogs = [backlog(0, 1_000, EXPENSIVE), backlog(1, 1, CHEAP), backlog(2, 1, CHEAP)];
    let batches = run(&mut fairness, &mut backlogs, 3, BATCH_WORK, |backlogs| {
        (backlogs[1].records, backlogs[2].records) = (1, 1);
    });
    let partitions =
        |batch: &[(i32, usize)]| batch.iter().map(|(partition, _)| *partition).collect::<Vec<_>>();
    // Nothing is known before the first batch.
    assert_eq!(partitions(&batches[0])[..3], [0, 1, 2]);
    for batch in &batches[1..] {
        assert_eq!(partitions(batch)[..3], [1, 2, 0]);
    }
}

#[test]
fn a_batch_with_all_records_of_a_partition_is_not_extended_for_the_backlog_of_another() {
    let mut fairness = Fairness::default();
    fairness.begin_batch();
    fairness.begin_round([(0, 100_000)].into_iter());
    fairness.charge(0, 64, 64 * CHEAP, 99_936);
    assert!(fairness.has_only_backlogs());
    fairness.begin_round([(0, 99_936), (1, 1)].into_iter());
    fairness.charge(1, 1, CHEAP, 0);
    fairness.begin_round([(0, 99_936)].into_iter());
    assert!(!fairness.has_only_backlogs(), "a record of partition 1 waits for the commit");
    fairness.begin_batch();
    fairness.begin_round([(0, 99_936)].into_iter());
    assert!(fairness.has_only_backlogs());
}

#[test]
fn a_partition_that_was_idle_has_saved_nothing_up() {
    let mut fairness = Fairness::default();
    let mut backlogs = [backlog(0, 1_000_000, CHEAP), backlog(1, 0, CHEAP)];
    run(&mut fairness, &mut backlogs, 50, BATCH_WORK, |_| {});
    backlogs[1].records = 1_000_000;
    let batches = run(&mut fairness, &mut backlogs, 1, BATCH_WORK, |_| {});
    let counts = [0, 1].map(|partition| total(&batches, partition) as u64);
    assert!(counts[0].abs_diff(counts[1]) <= 2 * TURN_WORK / CHEAP, "{counts:?}");
}

#[test]
fn a_partition_that_is_not_assigned_any_more_is_forgotten() {
    let mut fairness = Fairness::default();
    fairness.begin_round([0, 1, 2].map(|partition| (partition, 1)).into_iter());
    fairness.charge(1, 1, EXPENSIVE, 5);
    fairness.retain(&[0, 2]);
    assert_eq!(fairness.accounts.keys().copied().collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn a_backlog_is_measured_by_its_work() {
    let mut fairness = Fairness::default();
    let mut has_backlog = |records| {
        fairness.begin_round([(0, records), (1, records)].into_iter());
        fairness.has_only_backlogs()
    };
    assert!(!has_backlog(100) && has_backlog(1_024));
    for _ in 0..20 {
        fairness.charge(0, 1, EXPENSIVE, 5);
    }
    fairness.begin_round([(0, 2)].into_iter());
    assert!(fairness.has_only_backlogs());
}
