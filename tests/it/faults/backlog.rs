//! Faults while a backlog waits, when the transaction of one batch is committed as the next one is filled.

use super::*;

/// Requests in a batch: few, so that a backlog consists of many batches.
const BATCH: &str = "100";

fn fixture(stack: &Stack) -> Fixture {
    let mut fixture = Fixture::new(stack, Mode::Transactional).impatient();
    fixture.group = fixture.group.set("FLAGSTREAM_DELIVERY__BATCH_MAX_MESSAGES", BATCH);
    fixture
}

/// Two transactions of a worker may be open when it is killed: one that is being committed, and one that is being filled.
#[test]
fn kills_between_two_commits_of_a_backlog() {
    let (stack, _shared) = Stack::shared();
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut fixture = fixture(stack);
    fixture.load(4_000);
    let mut service = fixture.group.start("a");
    let kills = if is_long() { 30 } else { 6 };
    for _ in 0..kills {
        wait_until_at_work(&service);
        fixture.run_for(Duration::from_millis(chance.random_range(1..200)));
        service.kill();
        // The backlog grows, so that the next process has one from its start.
        fixture.run_for(Duration::from_millis(500));
        service.spawn();
        service.wait_until_ready();
    }
    println!("{kills} kills");
    fixture.balance();
}

/// Members that join while both transactions of a worker are open take over some of its partitions.
#[test]
fn rebalances_between_two_commits_of_a_backlog() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = fixture(stack);
    fixture.load(4_000);
    let first = fixture.group.start("a");
    wait_until_at_work(&first);
    let mut others = ["b", "c"].map(|name| fixture.group.start(name));
    for _ in 0..if is_long() { 5 } else { 1 } {
        for other in &mut others {
            wait_until_at_work(other);
            assert!(other.stop().0.success());
            wait_until_at_work(&first);
            other.spawn();
            other.wait_until_ready();
        }
    }
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    fixture.balance();
}
