//! The hash chains of the audit trail: nothing is changed, added or removed without a trace, and an erasure is no change.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Answer, Database, Flags, Group, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, call, flagstream,
    post, wait_until,
};

const KEY: &str = "a chain key of some length";
const TOKEN: &str = "a-bootstrap-token";

fn authorised(method: &str, url: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json"), ("authorization", "Bearer a-bootstrap-token")];
    call(method, url, &headers, body.to_string().as_bytes())
}

/// A service with an audit trail of some rows, and what the command says of it.
struct Fixture {
    group: Group,
    database: Database,
    service: Service,
    sender: Sender,
}

impl Fixture {
    fn new(stack: &Stack) -> Self {
        let database = Database::create(stack);
        let group = Group::new(stack)
            .set("DATABASE_URL", &database.url)
            .set("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", TOKEN)
            .set("FLAGSTREAM_AUDIT__CHAIN_KEY", KEY)
            .set("FLAGSTREAM_AUDIT__CHECKPOINT_INTERVAL", "1s");
        Flags::new(&group.topics).set_load();
        let service = group.start("a");
        let sender = Sender::new(&group.topics.kafka);
        Self { group, database, service, sender }
    }

    /// Evaluates by both paths, for some users, with contexts that `jsonb` writes differently from how they came.
    fn evaluate(&self, users: &[&str]) {
        let before = self.database.audited();
        for user in users {
            let context = r#"{"b": 1.50, "a": 1e2, "a": -0.0, "list": [1, {"y": null, "x": "\u00e9"}]}"#;
            let body = format!(
                r#"{{"flag_names": ["on", "theme", "unknown"], "default_values": {{"theme": "li\u0067ht"}}, "user_id": "{user}",
                "environment": "production", "context": {context}}}"#
            );
            let topic = &self.group.topics.requests;
            self.sender.send(topic, None, Some(user.as_bytes()), body.as_bytes(), None);
        }
        let url = format!("{}/api/v1/feature-flags/evaluate", self.service.url);
        let call = json!({"flag_name": "on", "user_id": users[0], "environment": "production", "context": {"n": 1.0}});
        assert_eq!(post(&url, &call).status, 200);
        let expected = before + 3 * i64::try_from(users.len()).unwrap() + 1;
        wait_until("the rows", TEST_TIMEOUT, || self.database.audited() == expected);
    }

    /// Waits until a checkpoint says what the chains are now.
    fn checkpoint(&self) {
        let blocks = self.database.number("SELECT sum(number)::bigint FROM audit_chains").unwrap();
        let sum = |value: &Value| -> i64 {
            value["chains"].as_array().unwrap().iter().filter_map(|end| end["number"].as_i64()).sum()
        };
        let mut tap = TopicReader::open(&self.group.topics.kafka, &self.group.topics.audit_checkpoints);
        let record =
            tap.wait("a checkpoint of all blocks", TEST_TIMEOUT, |record| sum(&record.json()) == blocks);
        assert_eq!(record.json()["event_type"], "AUDIT_CHECKPOINT");
        assert!(record.json()["signature"].is_string());
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let arguments = [arguments, &["--output", "json"]].concat();
        let output = flagstream(self.group.folder.path(), &arguments, self.group.settings());
        let value = serde_json::from_slice(&output.stdout);
        let value = value.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), value)
    }

    fn assert_unchanged(&self) -> Value {
        let (code, verified) = self.run(&["audit", "verify"]);
        assert_eq!((code, &verified["problem_count"]), (Some(0), &json!(0)), "{verified}");
        verified
    }

    /// Changes the database with `statements`, expects a problem of this kind, and takes the change back.
    fn assert_noticed(&self, kind: &str, statements: &str, back: &str) {
        let unguarded = |statements: &str| {
            self.database.run(&format!(
                "SET session_replication_role = replica; {statements}; RESET session_replication_role"
            ));
        };
        unguarded(statements);
        let (code, verified) = self.run(&["audit", "verify"]);
        let kinds: Vec<_> =
            verified["problems"].as_array().unwrap().iter().map(|problem| &problem["kind"]).collect();
        assert!(code == Some(1) && kinds.contains(&&json!(kind)), "{statements}: {verified}");
        unguarded(back);
        self.assert_unchanged();
    }
}

#[test]
fn every_change_of_the_audit_trail_is_noticed() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    fixture.evaluate(&["ann", "bob", "it's"]);
    let kill = format!("{}/api/v1/feature-flags/on/kill?environment=production", fixture.service.url);
    let killed = authorised("POST", &kill, &json!({"reason": "test"}));
    assert_eq!(killed.status, 200, "{killed:?}");
    wait_until("the kill switch is in the change log", TEST_TIMEOUT, || {
        fixture.database.number("SELECT count(*) FROM feature_flag_changes") == Some(1)
    });
    fixture.checkpoint();
    let verified = fixture.assert_unchanged();
    assert_eq!((&verified["rows"], &verified["changes"]), (&json!(10), &json!(1)), "{verified}");
    assert!(
        verified["checkpoints"].as_u64() > Some(0) && verified["unsigned_checkpoints"] == 0,
        "{verified}"
    );

    let row = "WHERE user_id = 'bob' AND flag_name = 'on'";
    let saved = format!("CREATE TABLE saved AS SELECT * FROM feature_flag_evaluations {row}");
    fixture.database.run(&saved);
    fixture.assert_noticed(
        "changed",
        &format!("UPDATE feature_flag_evaluations SET evaluation_reason = 'OTHER' {row}"),
        &format!("UPDATE feature_flag_evaluations SET evaluation_reason = (SELECT evaluation_reason FROM saved) {row}"),
    );
    fixture.assert_noticed(
        "changed",
        &format!("DELETE FROM feature_flag_evaluations {row}"),
        "INSERT INTO feature_flag_evaluations SELECT * FROM saved",
    );
    fixture.assert_noticed(
        "changed",
        "UPDATE saved SET id = 999999; INSERT INTO feature_flag_evaluations SELECT * FROM saved",
        "DELETE FROM feature_flag_evaluations WHERE id = 999999",
    );
    fixture.assert_noticed(
        "added",
        "UPDATE feature_flag_evaluations SET audit_block = audit_block + (1000::bigint << 40) WHERE user_id = 'bob' AND flag_name = 'on'",
        "UPDATE feature_flag_evaluations SET audit_block = audit_block - (1000::bigint << 40) WHERE user_id = 'bob' AND flag_name = 'on'",
    );
    fixture.assert_noticed(
        "broken_chain",
        "UPDATE audit_blocks SET to_offset = to_offset + 1 WHERE number = 1",
        "UPDATE audit_blocks SET to_offset = to_offset - 1 WHERE number = 1",
    );
    fixture.assert_noticed(
        "changed",
        "UPDATE feature_flag_changes SET actor = 'nobody-' || actor",
        "UPDATE feature_flag_changes SET actor = substr(actor, 8)",
    );
}

#[test]
fn a_chain_that_is_cut_off_or_rewritten_disagrees_with_the_checkpoints() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    fixture.evaluate(&["ann"]);
    fixture.checkpoint();
    fixture.assert_unchanged();
    // As if nothing had ever been written: consistent within the database.
    fixture.database.run(
        "SET session_replication_role = replica; DELETE FROM feature_flag_evaluations; DELETE FROM audit_blocks;
         UPDATE audit_chains SET number = 0, hash = decode(repeat('00', 32), 'hex'); RESET session_replication_role",
    );
    let (code, without) = fixture.run(&["audit", "verify", "--without-kafka"]);
    assert_eq!((code, &without["checkpoints"]), (Some(0), &Value::Null), "{without}");
    let (code, verified) = fixture.run(&["audit", "verify"]);
    assert_eq!(
        (code, &verified["problems"][0]["kind"]),
        (Some(1), &json!("checkpoint_differs")),
        "{verified}"
    );

    // A checkpoint of another writer is rejected.
    let forged = json!({"event_type": "AUDIT_CHECKPOINT", "instance": "x", "created_at": "2026-01-01T00:00:00Z", "chains": [],
        "changes": [], "signature": "00".repeat(32)});
    let topic = &fixture.group.topics.audit_checkpoints;
    fixture.sender.send(topic, None, Some(b"x"), forged.to_string().as_bytes(), None);
    let kinds = |verified: &Value| verified["problems"].to_string();
    wait_until("the forged checkpoint is reported", Duration::from_secs(60), || {
        kinds(&fixture.run(&["audit", "verify"]).1).contains("bad_signature")
    });
}

#[test]
fn an_erased_user_leaves_a_valid_chain_and_a_record_without_the_id() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    fixture.evaluate(&["ann-the-erased", "bob", "carl"]);
    let flags = format!("{}/api/v1/feature-flags", fixture.service.url);
    let created = json!({"name": "listed", "environment": "production", "is_enabled": true, "target_users": ["ann-the-erased", "bob"]});
    assert!(matches!(authorised("POST", &flags, &created).status, 201 | 202));
    let changed = json!({"environment": "production", "target_users": ["bob"]});
    let url = format!("{flags}/listed?environment=production");
    assert!(matches!(authorised("PUT", &url, &changed).status, 200 | 202));
    wait_until("both versions are recorded", TEST_TIMEOUT, || {
        fixture.database.number("SELECT count(*) FROM feature_flag_versions WHERE name = 'listed'") == Some(2)
    });

    let (code, erased) = fixture.run(&["erase", "--user", "ann-the-erased", "--reason", "request 4711"]);
    assert_eq!((code, &erased["rows"]), (Some(0), &json!(4)), "{erased}");
    assert_eq!((&erased["changes"], &erased["versions"]), (&json!(2), &json!(1)), "{erased}");
    let kept: Vec<_> =
        erased["kept"].as_array().unwrap().iter().filter_map(|kept| kept["place"].as_str()).collect();
    assert!(kept.iter().any(|place| place.contains(&fixture.group.topics.events)), "{kept:?}");
    let (code, anonymised) = fixture.run(&["erase", "--user", "bob", "--anonymise"]);
    assert_eq!((code, &anonymised["rows"]), (Some(0), &json!(3)), "{anonymised}");
    assert_eq!(anonymised["flags_in_force"], json!(["production/listed"]), "{anonymised}");

    let verified = fixture.assert_unchanged();
    assert_eq!((&verified["rows"], &verified["erased_rows"]), (&json!(6), &json!(7)), "{verified}");
    for table in
        ["feature_flag_evaluations", "feature_flag_changes", "audited_changes", "feature_flag_versions"]
    {
        let left = format!("SELECT count(*) FROM {table} t WHERE t::text LIKE '%ann-the-erased%'");
        assert_eq!(fixture.database.number(&left), Some(0), "{table}");
    }
    let recorded = "SELECT count(*) FROM audited_changes WHERE kind = 'erasure' AND reason = 'request 4711'";
    assert_eq!(fixture.database.number(recorded), Some(1));
}

#[test]
fn the_change_logs_are_append_only() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    fixture.database.run(
        "INSERT INTO audited_changes (kind, subject, action, actor, changed_at) VALUES ('token', 'x', 'created', 'a', now())",
    );
    for statement in [
        "UPDATE audited_changes SET actor = 'b'",
        "DELETE FROM audited_changes",
        "DELETE FROM audit_change_links",
    ] {
        let refused = fixture.database.try_run(statement).unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{statement}: {refused}");
    }
}
