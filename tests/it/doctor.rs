//! `flagstream doctor`: what it finds, and what it advises.

use serde_json::Value;

use crate::harness::avro::register_rule;
use crate::harness::{Database, Group, RedisServer, Stack, flagstream, free_port, temporary_folder};

fn doctor(group: &Group) -> (Option<i32>, Vec<Value>) {
    let output = flagstream(group.folder.path(), &["doctor", "--output", "json"], group.settings());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let findings: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    (output.status.code(), findings.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
}

/// The state of the finding of this part that says this.
fn state<'f>(findings: &'f [Value], part: &str, found: &str) -> &'f Value {
    let finding = findings.iter().find(|it| it["part"] == part && it["found"].to_string().contains(found));
    finding.unwrap_or_else(|| panic!("{part} {found}: {findings:#?}"))
}

#[test]
fn a_deployment_that_is_well_and_each_thing_that_is_not() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = Group::new(stack)
        .set("DATABASE_URL", &database.url)
        .set("REDIS_URL", &stack.redis)
        .set("UNLEASH_URL", &stack.unleash.url)
        .set("UNLEASH_API_TOKEN", &stack.unleash.development_token)
        .set("UNLEASH_ADMIN_TOKEN", &stack.unleash.admin_token);
    let (code, findings) = doctor(&group);
    assert_eq!(code, Some(0), "{findings:#?}");
    assert_eq!(state(&findings, "database", "migrations are missing")["state"], "warning");
    // The anonymous scopes are not configured.
    let open = state(&findings, "http", "without a token");
    assert_eq!(open["state"], "warning");
    assert!(open["advice"].to_string().contains("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES"), "{open}");
    let group = group.set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate");
    assert!(flagstream(group.folder.path(), &["migrate"], group.settings()).status.success());
    let (code, findings) = doctor(&group);
    assert!(code == Some(0) && findings.iter().all(|it| it["state"] == "ok"), "{findings:#?}");
    for (part, found) in [
        ("kafka", "transactions"),
        ("kafka", "2.8 or newer"),
        ("kafka", "read and write"),
        ("unleash", "Admin API: answers, Unleash 7"),
        ("kafka", "group"),
        ("redis", "Redis"),
        ("unleash", "development"),
        ("state", ""),
    ] {
        state(&findings, part, found);
    }

    let closed = free_port();
    let broken = group
        .clone()
        .set("FLAGSTREAM_TOPICS__UPDATES", format!("{}-none", group.topics.prefix))
        .set("DATABASE_URL", format!("postgres://nobody@127.0.0.1:{closed}/none"))
        .set("REDIS_URL", format!("redis://127.0.0.1:{closed}"))
        .set("UNLEASH_API_TOKEN", "*:development.wrong")
        .set("FLAGSTREAM_STATE_DIR", "/proc/none");
    let (code, findings) = doctor(&broken);
    assert_eq!(code, Some(1));
    let wrong =
        [("kafka", "-none"), ("database", ""), ("redis", ""), ("unleash", "401"), ("state", "/proc/none")];
    for (part, found) in wrong {
        let finding = state(&findings, part, found);
        assert!(finding["state"] == "error" && finding["advice"].is_string(), "{finding}");
    }
    assert_eq!(state(&findings, "kafka", "-none")["advice"], "run `flagstream topics apply`");

    let folder = temporary_folder();
    let nowhere = [("KAFKA_BOOTSTRAP_SERVERS".to_owned(), format!("127.0.0.1:{closed}"))];
    let output = flagstream(folder.path(), &["doctor"], nowhere);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && text.contains("KAFKA_BOOTSTRAP_SERVERS"), "{text}");
}

#[test]
fn a_registry_that_is_away_or_refuses_a_schema_is_told() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack).in_avro(&stack.registry);
    let hints = format!("{}-value", group.topics.changes);
    let part = |group: &Group, found: &str| {
        let (_, findings) = doctor(group);
        state(&findings, "schema-registry", found)["state"].clone()
    };
    assert_eq!(part(&group, &format!("is valid for subject {hints}")), "ok");
    let only_asked = group.clone().set("FLAGSTREAM_SCHEMA_REGISTRY__AUTO_REGISTER", "false");
    assert_eq!(part(&only_asked, &format!("{hints} does not contain flagstream's schema")), "error");
    register_rule(
        stack,
        &hints,
        r#"{"type": "record", "name": "Odd", "fields": [{"name": "event_type", "type": "int"}]}"#,
    );
    assert_eq!(
        part(&group, &format!("the registry rejects flagstream's schema for subject {hints}")),
        "error"
    );
    let away = group.set("SCHEMA_REGISTRY_URL", format!("http://127.0.0.1:{}", free_port()));
    assert_eq!(part(&away, "no response"), "error");
}

#[test]
fn what_a_user_of_redis_may_not_do_is_told() {
    let (stack, _shared) = Stack::shared();
    if !RedisServer::is_wanted() {
        return;
    }
    let folder = temporary_folder();
    let server = RedisServer::plain(folder.path(), &[]);
    let group = Group::new(stack);
    let doctor_of = |name: &str, rights: &[&str]| {
        let mut words = vec!["ACL", "SETUSER", name, "on", ">secret"];
        words.extend(rights);
        assert!(server.cli(&words).contains("OK"), "{words:?}");
        let url = format!("redis://{name}:secret@127.0.0.1:{}", server.port);
        let (code, findings) = doctor(&group.clone().set("REDIS_URL", url));
        let of_redis: Vec<Value> = findings.into_iter().filter(|it| it["part"] == "redis").collect();
        (code, of_redis)
    };
    let (code, findings) = doctor_of("all", &["~*", "+@all"]);
    assert!(code == Some(0) && findings.iter().all(|it| it["state"] == "ok"), "{findings:#?}");
    let (code, findings) = doctor_of("no-info", &["~*", "+@all", "-@dangerous", "-info"]);
    assert!(code == Some(0) && findings.iter().all(|it| it["state"] == "ok"), "{findings:#?}");
    let (code, findings) = doctor_of("no-scripts", &["~*", "+@all", "-@scripting"]);
    assert_eq!(code, Some(1));
    assert_eq!(state(&findings, "redis", "SCRIPT")["state"], "error");
    assert!(state(&findings, "redis", "SCRIPT")["advice"].to_string().contains("+evalsha"), "{findings:#?}");
    let (code, findings) = doctor_of("few-keys", &["~flagstream:*", "+@all"]);
    assert_eq!(code, Some(1));
    assert_eq!(state(&findings, "redis", "feature_flag:eval:")["state"], "error");
    let key_is_there = server.cli(&["KEYS", "*"]);
    assert_eq!(key_is_there.trim(), "", "nothing was written");
}
