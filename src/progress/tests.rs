//! Tests of when a partition counts as stuck, and of the reports about it.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::*;

const STUCK_AFTER: Duration = Duration::from_secs(30);
const READER: usize = 0;

struct Fixture {
    progress: Progress,
    registry: Registry,
}

fn fixture(stuck_not_ready: bool) -> Fixture {
    let gauges =
        PartitionGauges { lag: Some(Default::default()), with_topic: true, ..PartitionGauges::default() };
    let mut registry = Registry::default();
    registry.register("stuck", "stuck", gauges.stuck.clone());
    registry.register("lag", "lag", gauges.lag.clone().unwrap_or_default());
    let config = HealthConfig { stuck_after: STUCK_AFTER, stuck_not_ready };
    let progress = Progress::new("requests", &config, gauges);
    progress.assign(READER, &[0, 1]);
    Fixture { progress, registry }
}

impl Fixture {
    /// The series of the gauges after an observation at `now`.
    fn series(&self, now: Instant) -> Vec<String> {
        self.progress.observe(now);
        let mut text = String::new();
        assert!(encode(&mut text, &self.registry).is_ok());
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }
}

/// A time at which everything reported so far is older than the limit.
fn later() -> Instant {
    Instant::now() + STUCK_AFTER + Duration::from_secs(1)
}

#[test]
fn a_partition_with_waiting_records_that_does_not_move_is_stuck() {
    let Fixture { progress, .. } = fixture(false);
    progress.committed(0, 17);
    progress.end(0, 20);
    progress.committed(1, 5);
    progress.end(1, 5);
    progress.blocked(0, Reason::BatchFailed, "commit: fenced");
    assert_eq!(progress.stuck(Instant::now()), [], "not for long enough");
    let stuck = progress.stuck(later());
    let found: Vec<_> = stuck.iter().map(|stuck| (stuck.partition, stuck.offset, stuck.reason)).collect();
    assert_eq!(found, [(0, Some(17), Reason::BatchFailed)]);
    assert_eq!(
        stuck[0].to_string(),
        "topic requests partition 0 has not moved from offset 17 for 31 s (batch_failed): commit: fenced"
    );
    progress.committed(0, 18);
    assert_eq!(progress.stuck(Instant::now() + STUCK_AFTER / 2), [], "it has moved");
}

#[test]
fn without_a_known_reason_it_is_stuck_all_the_same() {
    let Fixture { progress, .. } = fixture(false);
    progress.committed(1, 0);
    progress.end(1, 1);
    let stuck = progress.stuck(later());
    assert_eq!(stuck.first().map(|stuck| stuck.reason), Some(Reason::Unknown));
}

#[test]
fn markers_of_transactions_are_not_lag() {
    let Fixture { progress, .. } = fixture(false);
    progress.committed(0, 10);
    progress.end(0, 11);
    assert_eq!(progress.lag(0), Some(1));
    progress.position(0, 11);
    assert_eq!(progress.lag(0), Some(0));
    assert_eq!(progress.stuck(later()), []);
    // A record after the marker is lag again, from its arrival.
    progress.end(0, 12);
    assert_eq!((progress.lag(0), progress.stuck(later()).len()), (Some(1), 1));
}

#[test]
fn what_cannot_be_read_is_named_at_once_and_stuck_later_though_nobody_knows_what_waits() {
    let Fixture { progress, .. } = fixture(false);
    progress.committed(0, 4);
    progress.end(0, 4);
    progress.blocked(0, Reason::Unauthorized, "TopicAuthorizationFailed");
    let report = progress.add_to(Report::new(State::Up), Instant::now());
    assert_eq!(report.state, State::Degraded);
    let detail = report.detail.unwrap_or_default();
    assert!(detail.contains("partition 0") && detail.contains("TopicAuthorizationFailed"), "{detail}");
    assert_eq!(progress.stuck(later()).len(), 1);
    progress.end(0, 4);
    assert_eq!(progress.stuck(later()), [], "Kafka says that nothing waits");
    progress.unblocked(0, Reason::FetchError);
    assert_eq!(progress.add_to(Report::new(State::Up), Instant::now()).state, State::Degraded);
    progress.unblocked(0, Reason::Unauthorized);
    assert_eq!(progress.add_to(Report::new(State::Up), Instant::now()), Report::new(State::Up));
}

#[test]
fn readiness_follows_the_setting() {
    for setting in [false, true] {
        let Fixture { progress, .. } = fixture(setting);
        progress.committed(0, 0);
        progress.end(0, 1);
        let report = progress.add_to(Report::new(State::Up).detail("well"), Instant::now());
        assert_eq!((report.state, report.blocks_ready), (State::Up, false));
        let report = progress.add_to(Report::new(State::Up).detail("before"), later());
        assert_eq!((report.state, report.blocks_ready), (State::Degraded, setting));
        assert!(report.detail.unwrap_or_default().starts_with("before; topic requests partition 0"));
        let report = progress.add_to(Report::new(State::Down), later());
        assert_eq!(report.state, State::Down, "what is worse stays");
    }
}

#[test]
fn series_follow_the_reason_and_end_with_the_assignment() {
    let fixture = fixture(false);
    let progress = &fixture.progress;
    progress.committed(0, 3);
    progress.end(0, 10);
    assert_eq!(fixture.series(Instant::now()), [r#"lag{partition="0"} 7"#]);
    progress.blocked(0, Reason::Held, "the schema registry is unreachable");
    let stuck = |reason| format!(r#"stuck{{topic="requests",partition="0",reason="{reason}"}} 1"#);
    let lag = r#"lag{partition="0"} 7"#.to_owned();
    assert_eq!(fixture.series(later()), [stuck("held"), lag.clone()]);
    progress.blocked(0, Reason::BatchFailed, "not delivered");
    assert_eq!(fixture.series(later()), [stuck("batch_failed"), lag]);
    // Another reader of this process takes the partition over, and its waiting time restarts.
    progress.assign(1, &[0]);
    assert!(fixture.series(later()).is_empty());
    progress.assign(READER, &[1]);
    progress.committed(0, 3);
    progress.end(0, 10);
    assert_eq!(fixture.series(Instant::now()), [r#"lag{partition="0"} 7"#], "the other reader's is kept");
    progress.assign(1, &[]);
    progress.assign(READER, &[]);
    progress.end(0, 100);
    assert!(fixture.series(later()).is_empty());
}

#[test]
fn a_failed_batch_blocks_all_partitions_of_its_reader() {
    let Fixture { progress, .. } = fixture(false);
    progress.assign(1, &[7]);
    for partition in [0, 1, 7] {
        progress.committed(partition, 0);
        progress.end(partition, 1);
    }
    progress.blocked_reader(READER, Reason::BatchFailed, "x".repeat(10_000));
    let stuck = progress.stuck(later());
    let reasons: Vec<_> = stuck.iter().map(|stuck| stuck.reason).collect();
    assert_eq!(reasons, [Reason::BatchFailed, Reason::BatchFailed, Reason::Unknown]);
    assert!(stuck.iter().all(|stuck| stuck.detail.len() <= 500));
}

#[test]
fn texts_name_a_few_partitions_and_count_the_others() {
    let Fixture { progress, .. } = fixture(false);
    let many: Vec<i32> = (0..100).collect();
    progress.assign(READER, &many);
    for partition in many {
        progress.committed(partition, 0);
        progress.end(partition, 1);
    }
    let detail = progress.add_to(Report::new(State::Up), later()).detail.unwrap_or_default();
    assert_eq!(detail.matches("topic requests partition").count(), MAX_NAMED_COUNT);
    assert!(detail.ends_with("and 95 more partitions"), "{detail}");
}

#[test]
fn what_kafka_has_to_be_asked_for_is_known() {
    let Fixture { progress, .. } = fixture(false);
    progress.end(0, 4);
    assert_eq!(progress.without_end_for(Duration::from_secs(3), Instant::now()), [1]);
    assert_eq!(progress.without_end_for(Duration::from_secs(3), later()), [0, 1]);
    assert_eq!(progress.without_committed(), [0, 1]);
    progress.starts_at(0, 2);
    progress.starts_at(0, 1);
    assert_eq!((progress.lag(0), progress.lag(1)), (Some(2), None));
    assert_eq!(progress.without_committed(), [1]);
}

#[test]
fn an_open_transaction_is_asked_for_only_where_no_other_reason_is_known() {
    let Fixture { progress, .. } = fixture(false);
    for partition in [0, 1] {
        progress.committed(partition, 7);
        progress.end(partition, 9);
    }
    progress.blocked(1, Reason::Held, "waits");
    assert_eq!(progress.unexplained(Instant::now()), []);
    assert_eq!(progress.unexplained(later()), [(0, 7)]);
    progress.blocked(0, Reason::OpenTransaction, "open");
    assert_eq!(progress.unexplained(later()), [(0, 7)], "it may have ended");
    progress.position(0, 9);
    assert_eq!(progress.unexplained(later()), []);
}
