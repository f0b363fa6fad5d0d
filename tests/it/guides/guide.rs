//! A guide as a list of files and commands.

use std::path::{Path, PathBuf};

use regex::Regex;

pub struct Guide {
    pub steps: Vec<Step>,
}

pub enum Step {
    File { name: String, text: String },
    Commands(Commands),
}

/// A block of commands, each with what it prints.
pub struct Commands {
    pub mode: Mode,
    pub list: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Once,
    Eventually,
    InTheBackground,
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guides")
}

impl Guide {
    pub fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(folder().join(name)).unwrap();
        let (mut steps, mut mode, mut prose) = (Vec::new(), Mode::Once, String::new());
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some(language) = line.strip_prefix("```") else {
                match line {
                    "<!-- test: eventually -->" => mode = Mode::Eventually,
                    "<!-- test: in the background -->" => mode = Mode::InTheBackground,
                    _ => assert!(!line.contains("<!--"), "{name}: {line}"),
                }
                prose.push_str(line);
                prose.push('\n');
                continue;
            };
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            steps.push(match language {
                "console" => Step::Commands(Commands { mode, list: commands(&block) }),
                _ => Step::File { name: file_name(&prose, language), text: block.join("\n") + "\n" },
            });
            (mode, prose) = (Mode::Once, String::new());
        }
        Self { steps }
    }
}

/// The last file of this kind that the text before a block names.
fn file_name(prose: &str, language: &str) -> String {
    let extension = match language {
        "python" => ".py",
        "toml" => ".toml",
        _ => ".json",
    };
    let quoted = prose.split('`').skip(1).step_by(2).filter(|text| text.ends_with(extension));
    quoted.last().unwrap_or_else(|| panic!("no file is named: {prose}")).to_owned()
}

/// Reads commands and their output. A command begins with `$ ` and continues while a quote is open or its line ends
/// with a backslash.
fn commands(block: &[&str]) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut is_open = false;
    for line in block {
        if let Some(command) = line.strip_prefix("$ ").filter(|_| !is_open) {
            commands.push((command.to_owned(), String::new()));
        } else {
            let (command, expected) = commands.last_mut().expect("a block begins with a command");
            let text = if is_open { command } else { expected };
            text.push_str(&format!("\n{line}"));
        }
        let (command, expected) = commands.last().unwrap();
        is_open = expected.is_empty() && (command.ends_with('\\') || command.matches('\'').count() % 2 == 1);
    }
    commands.into_iter().map(|(command, expected)| (command, expected.trim_start().to_owned())).collect()
}

pub fn without_sleep(command: &str) -> String {
    Regex::new(r"^sleep \d+; ").unwrap().replace(command, "").into_owned()
}

/// Whether a command has printed what the guide says.
pub fn fits(expected: &str, printed: &str) -> bool {
    let expected = normal(expected);
    let mut rest = normal(printed);
    let mut parts = expected.split('…').map(str::trim).peekable();
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else { return false };
    if parts.peek().is_none() {
        return after.is_empty();
    }
    rest = after.to_owned();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = rest[at + part.len()..].to_owned();
    }
    true
}

/// The text with masks for what differs with every run; JSON loses the line breaks that a guide adds to it.
fn normal(text: &str) -> String {
    const MASKS: [(&str, &str); 5] = [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)? UTC", "TIME"),
        (r"\b1\d{12}\b", "VERSION"),
        (r"Counted \d+ s ago; [^.]*\.", "COUNTED"),
        (r"users in \d+ minutes?\.", "users in N minutes."),
    ];
    let mut text = text.trim().to_owned();
    for (pattern, mask) in MASKS {
        text = Regex::new(pattern).unwrap().replace_all(&text, mask).into_owned();
    }
    if text.starts_with(['{', '[']) {
        text.retain(|c| !c.is_whitespace());
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn commands_are_split_from_what_they_print() {
    let block = "$ one \\\n  more\nprinted\n  twice\n$ two 'a\nb' c\n$ three";
    let expected = [("one \\\n  more", "printed\n  twice"), ("two 'a\nb' c", ""), ("three", "")];
    let read = commands(&block.lines().collect::<Vec<_>>());
    let read: Vec<_> = read.iter().map(|(command, printed)| (command.as_str(), printed.as_str())).collect();
    assert_eq!(read, expected);
}

#[test]
fn only_what_differs_with_every_run_and_what_is_left_out_may_differ() {
    let fitting = [
        ("", "\n"),
        (
            "until 2026-11-21 17:13:36 UTC, version 1795274016279",
            "until 2027-01-01 00:00:00 UTC, version 1800000000000\n",
        ),
        (
            "{\"a\":1,\n\"b\":\"2026-11-21T15:13:36.516035Z\", … }",
            "{\"a\":1,\"b\":\"2026-11-22T15:13:36Z\",\"c\":{}}",
        ),
        ("+ flag\n    …", "+ flag\n    a: 1\n    b: 2\n"),
        ("…", "anything"),
        ("a … c … e", "a b c d e"),
    ];
    for (expected, printed) in fitting {
        assert!(fits(expected, printed), "{expected} and {printed}");
    }
    let wrong = [
        ("", "error"),
        ("a", "a b"),
        ("{\"a\":1}", "{\"a\":2}"),
        ("+ flag\n    …", "~ flag\n    a: 1\n"),
        ("a … c … e", "a b d e"),
        ("a … e", "a b"),
        ("one\ntwo", "one"),
    ];
    for (expected, printed) in wrong {
        assert!(!fits(expected, printed), "{expected} and {printed}");
    }
}
