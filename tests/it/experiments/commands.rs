//! `flagstream experiments`, from a file to the end of an experiment.

use serde_json::{Value, json};

use super::{ENVIRONMENT, Fixture, evaluate};
use crate::harness::{Stack, TEST_TIMEOUT, flagstream, wait_until};

#[test]
fn an_experiment_is_made_watched_and_ended_from_the_command_line() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    let folder = fixture.group.folder.path();
    let settings = [("UNLEASH_ENVIRONMENT".to_owned(), ENVIRONMENT.to_owned())];
    let run = |arguments: &[&str]| {
        let all = [&["experiments"], arguments, &["--url", &service.url]].concat();
        let output = flagstream(folder, &all, settings.clone());
        let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), out + &error)
    };
    let wanted = json!({"name": "theme", "control": "light", "metrics": [{"name": "purchase"}]});
    std::fs::write(folder.join("theme.json"), wanted.to_string()).unwrap();
    let (code, text) = run(&["create", "-f", "theme.json"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("theme in production runs; "), "{text}");
    let (code, text) = run(&["create", "-f", "theme.json"]);
    assert!(code == Some(1) && text.contains("an experiment of this name exists"), "{text}");

    (0..20).for_each(|number| drop(evaluate(&service, &format!("user-{number}"))));
    let (mut code, mut shown) = (None, String::new());
    wait_until("the users are shown", TEST_TIMEOUT, || {
        (code, shown) = run(&["show", "theme"]);
        shown.contains("\n20 users in ")
    });
    assert_eq!(code, Some(0));
    let why = "purchase: dark can't be compared with light yet: fewer than 100 users in one of the variants.";
    assert!(shown.replace("\n  ", " ").contains(why), "{shown}");
    let (_, text) = run(&["show", "theme", "--output", "json"]);
    let results: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(results["phase"]["metrics"][0]["comparisons"][0]["missing"], "too_few_users");
    let (code, text) = run(&["show", "nothing"]);
    assert!(code == Some(1) && text.contains("there is no experiment of this name"), "{text}");

    let (code, text) = run(&["stop", "theme", "--reason", "enough", "--winner", "dark"]);
    assert!(code == Some(0) && text.starts_with("theme in production is stopped; "), "{text}");
    let (_, text) = run(&["list"]);
    let line = text.lines().find(|line| line.starts_with("theme ")).unwrap();
    assert!(line.contains("stopped, dark won") && line.ends_with("purchase"), "{text}");
}
