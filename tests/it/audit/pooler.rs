//! PgBouncer between flagstream and Postgres. Sessions that clients share are refused by name, sessions of their own work.

use serde_json::Value;

use super::Fixture;
use crate::harness::{PgBouncer, Stack, TEST_TIMEOUT, flagstream, wait_for, wait_until};

#[test]
fn shared_sessions_are_refused_by_name_and_sessions_of_its_own_work() {
    let (stack, _shared) = Stack::shared();
    if !PgBouncer::is_wanted() {
        return;
    }
    let mut fixture = Fixture::new(stack);
    let mut pooler = PgBouncer::start(&stack.postgres, "transaction");
    fixture.group = fixture
        .group
        .set("DATABASE_URL", pooler.url(&fixture.database.name))
        .set("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "true");
    let commands = [("migrate", "pool_mode=session"), ("doctor", "pool_mode=session")];
    for (command, advice) in commands {
        let output = flagstream(fixture.group.folder.path(), &[command], fixture.group.settings());
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert_eq!(output.status.code(), Some(1), "{command}: {text}");
        assert!(text.contains(advice), "{command}: {text}");
    }
    let mut service = fixture.group.start("a");
    let part = |name: &str| service.health()["parts"][name].clone();
    let database = wait_for("health names the pooler", TEST_TIMEOUT, || {
        let database = part("database");
        database["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("pool_mode=session"))
            .then_some(database)
    });
    assert_eq!(database["state"], "down", "{database}");
    assert_eq!(part("sink")["state"], "starting");
    // Evaluation does not need the database.
    fixture.load(200);
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_name LIKE 'feature_flag%'";
    assert_eq!(fixture.database.number(tables), Some(0), "nothing was created through shared sessions");

    pooler.restart("session");
    wait_until("the database is up", TEST_TIMEOUT, || part("database")["state"] == "up");
    fixture.wait_for_rows("rows are written");
    wait_until("the sink is up", TEST_TIMEOUT, || part("sink")["state"] == "up");
    assert_ne!(part("tokens")["state"], Value::from("down"));
    service.assert_running();
    // Every event since the beginning is a row, once.
    fixture.balance();
    assert!(service.stop().0.success());
}
