//! `flagstream flags`: local flags out of files and into them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Fixture, leads, new_flag};
use crate::harness::{Service, Stack, flagstream, temporary_folder};

/// Exit code, what was printed, and what was complained of.
fn flags(service: &Service, folder: &Path, arguments: &[&str]) -> (i32, Vec<Value>, String) {
    let mut all = vec!["flags"];
    all.extend(arguments);
    all.extend(["--url", &service.url, "--output", "json"]);
    let output = flagstream(folder, &all, [] as [(String, String); 0]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code().unwrap(), lines, String::from_utf8(output.stderr).unwrap())
}

fn told(lines: &[Value]) -> Vec<(&str, &str)> {
    lines.iter().map(|line| (line["action"].as_str().unwrap(), line["name"].as_str().unwrap())).collect()
}

#[test]
fn files_are_applied_once_and_come_back_as_they_were() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    let folder = temporary_folder();
    let write = |name: &str, body: &Value| fs::write(folder.path().join(name), body.to_string()).unwrap();
    fs::create_dir(folder.path().join("flags")).unwrap();
    let child = json!({"name": "a-child", "environment": "development", "is_enabled": true, "depends_on": ["parent"],
        "rules": [{"users": ["ann"], "percentage": "50"}]});
    let odd = json!({"name": "odd /name", "environment": "development", "variants": [{"name": "x", "weight": 50}],
        "scheduled_steps": [{"date": "2099-01-01T00:00:00+01:00", "percentage": 5}]});
    write("flags/some.json", &json!([child, new_flag("parent")]));
    write("flags/odd.json", &odd);
    fixture.create(&service, &new_flag("not-in-files"));

    let (code, lines, _) = flags(&service, folder.path(), &["diff", "-f", "flags"]);
    let all = [("create", "parent"), ("create", "a-child"), ("create", "odd /name")];
    assert_eq!((code, told(&lines)), (1, all.to_vec()));
    let dry = flags(&service, folder.path(), &["apply", "-f", "flags", "--dry-run"]);
    assert_eq!((dry.0, told(&dry.1), fixture.show(&service, "parent").status), (0, all.to_vec(), 404));
    let (code, lines, errors) =
        flags(&service, folder.path(), &["apply", "-f", "flags", "--reason", "ticket 7"]);
    assert_eq!((code, told(&lines)), (0, all.to_vec()), "{errors}");
    let revision = fixture.show(&service, "a-child").json()["revision"].clone();
    let again = flags(&service, folder.path(), &["apply", "-f", "flags"]);
    assert_eq!((again.0, again.1.len()), (0, 0), "{again:?}");
    assert_eq!(flags(&service, folder.path(), &["diff", "-f", "flags"]).0, 0);
    assert_eq!(fixture.show(&service, "a-child").json()["revision"], revision);

    let (code, lines, _) =
        flags(&service, folder.path(), &["export", "-f", "out", "--environment", "development"]);
    assert_eq!((code, &lines[0]), (0, &json!({"flags": 4, "written": 4})));
    let text = fs::read_to_string(folder.path().join("out/development/odd%20%2Fname.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap()["rollout_schedule"][0]["date"],
        "2098-12-31T23:00:00Z"
    );
    assert_eq!(
        flags(&service, folder.path(), &["diff", "-f", "out"]).0,
        0,
        "what is exported is what there is"
    );

    // A change by hand is undone, and what no file has may be deleted.
    fixture.update(&service, "parent", &json!({"owner": "somebody", "is_enabled": false}));
    let (_, lines, _) = flags(&service, folder.path(), &["diff", "-f", "flags", "--prune"]);
    assert_eq!(told(&lines), [("update", "parent"), ("delete", "not-in-files")]);
    let fields = json!({"is_enabled": {"before": false, "after": true}, "owner": {"before": "somebody", "after": null}});
    assert_eq!(lines[0]["fields"], fields);
    assert_eq!(flags(&service, folder.path(), &["apply", "-f", "flags", "--prune"]).0, 0);
    assert_eq!(fixture.show(&service, "parent").json()["owner"], Value::Null);
    assert_eq!(fixture.show(&service, "not-in-files").status, 404);
}

#[test]
fn what_is_wrong_is_told_and_the_rest_is_done() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    let folder = temporary_folder();
    let write = |name: &str, body: &Value| fs::write(folder.path().join(name), body.to_string()).unwrap();
    write(
        "a.json",
        &json!({"name": "a", "environment": "development", "rollout_percentage": 500, "surprise": 1}),
    );
    let (code, _, errors) = flags(&service, folder.path(), &["apply", "-f", "."]);
    assert_eq!(code, 1);
    assert!(
        errors.contains("a.json: rollout_percentage: ") && errors.contains("a.json: surprise: "),
        "{errors}"
    );
    let mut orphan = new_flag("a");
    orphan["depends_on"] = json!(["nobody"]);
    write("a.json", &orphan);
    write("b.json", &new_flag("b"));
    let (code, lines, _) = flags(&service, folder.path(), &["apply", "-f", "."]);
    assert_eq!((code, told(&lines)), (1, vec![("create", "a"), ("create", "b")]));
    assert!(lines[0]["error"].as_str().unwrap().contains("422") && lines[1]["error"].is_null(), "{lines:?}");
    assert_eq!((fixture.show(&service, "a").status, fixture.show(&service, "b").status), (404, 200));
    assert_eq!(flags(&service, folder.path(), &["apply", "-f", "missing"]).0, 1);
}
