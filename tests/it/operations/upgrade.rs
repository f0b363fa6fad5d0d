//! Rolling upgrades, with two versions side by side, in both directions.

use std::path::PathBuf;

use crate::harness::{Database, Flags, Group, Ledger, Load, Service, Stack, TEST_TIMEOUT, wait_until};

/// The binary of the previous release: `scripts/previous-release` builds it, which takes as long as a first build. Without
/// it, instances of this version replace each other.
fn previous() -> Option<PathBuf> {
    let path = std::env::var_os("FLAGSTREAM_TEST_PREVIOUS").map(PathBuf::from);
    match &path {
        Some(path) => println!("the previous version is {}", path.display()),
        None => println!(
            "left out: the previous version (FLAGSTREAM_TEST_PREVIOUS); this version replaces itself"
        ),
    }
    path
}

/// Replaces the instances one after the other by those of `program`, under load.
fn replace(services: &mut [Service], program: Option<&PathBuf>, ledger: &mut Ledger) {
    for service in services {
        let (status, took) = service.stop();
        assert!(status.success(), "{} ended with {status} after {took:?}", service.name);
        service.use_program(program.cloned());
        service.spawn();
        service.wait_until_ready();
        ledger.sign_of_life(
            &format!("all partitions served after {} was replaced", service.name),
            TEST_TIMEOUT,
        );
    }
}

#[test]
fn a_rolling_upgrade_and_the_way_back_lose_and_double_nothing() {
    let (stack, _shared) = Stack::shared();
    let previous = previous();
    let database = Database::create(stack);
    let group = Group::new(stack).set("DATABASE_URL", &database.url);
    Flags::new(&group.topics).set_load();
    let reply_to = group.topics.reply_topic("load");
    let mut ledger = Ledger::open(&group.topics, &reply_to);
    let mut services: Vec<Service> = ["a", "b"].iter().map(|name| group.prepare(name)).collect();
    for service in &mut services {
        service.use_program(previous.clone());
        service.spawn();
        service.wait_until_ready();
    }
    let load = Load::start(&group.topics, &reply_to, 1_000);
    ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    replace(&mut services, None, &mut ledger);
    if previous.is_some() {
        replace(&mut services, previous.as_ref(), &mut ledger);
    }
    let sent = load.stop();
    println!("{sent} requests");
    let events = ledger.assert_exactly_once();
    wait_until("every event is a row", TEST_TIMEOUT * 2, || database.audited() >= events.len() as i64);
    database.assert_audited(&events, TEST_TIMEOUT);
}
