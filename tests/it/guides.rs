//! The guides in `docs/guides`: each command runs as it is written there, and prints what is written there.
//!
//! Times, versions and ages differ with every run and are masked; `…` in a guide stands for any text. A comment before a
//! block of commands says how they run, unless it is once and in order:
//!
//! - `<!-- test: eventually -->`: they are repeated, without their `sleep`, until they print what is written;
//! - `<!-- test: in the background -->`: they run until the end of the guide, and what is written is the first that they
//!   have printed by then.

mod guide;
mod shell;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{Dev, TEST_TIMEOUT, temporary_folder};

use guide::{Commands, Guide, Mode, Step};
use shell::{Background, Shell};

/// Longest wait for what a guide says takes a moment: a date ten seconds away, or a count of the rows.
const EVENTUALLY: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[test]
fn the_kill_switch_guide_is_literal() {
    follow("kill-switch.md", 8);
}

#[test]
fn the_rollout_guide_is_literal() {
    follow("rollout.md", 18);
}

#[test]
fn the_experiment_guide_is_literal() {
    follow("experiment.md", 5);
}

#[test]
fn the_guide_to_taps_is_literal() {
    follow("taps.md", 10);
}

#[test]
fn the_attributes_guide_is_literal() {
    let settings = [
        ("FLAGSTREAM_ATTRIBUTES__ENABLED", "true"),
        ("FLAGSTREAM_ATTRIBUTES__TABLE_WINS", "subscription_tier"),
    ];
    follow_with("attributes.md", 9, &settings);
}

/// Guides that need a cluster, a warehouse, backups or an Unleash of their own, which `dev` has not. The tests of the chart, of
/// backups and of upgrades cover what they describe.
const ELSEWHERE: [&str; 10] = [
    "analytics.md",
    "audit-questions.md",
    "capacity.md",
    "connect-unleash.md",
    "edge.md",
    "first-evaluation.md",
    "install.md",
    "recover.md",
    "scale.md",
    "upgrade.md",
];

#[test]
fn every_guide_is_followed() {
    let guides = std::fs::read_dir(guide::folder()).unwrap().map(|guide| guide.unwrap().file_name());
    let tests = include_str!("guides.rs");
    for guide in guides.filter(|guide| Path::new(guide).extension().is_some_and(|kind| kind == "md")) {
        let is_known = ELSEWHERE.iter().any(|name| *name == guide);
        let is_followed =
            ["follow", "follow_with"].iter().any(|call| tests.contains(&format!("{call}({guide:?}")));
        assert!(is_known || is_followed, "{guide:?} has no test");
    }
}

/// Runs a guide of at least so many commands, on a `dev` of its own.
fn follow(name: &str, least: usize) {
    follow_with(name, least, &[]);
}

/// Like [`follow`], on a `dev` with further settings.
fn follow_with(name: &str, least: usize, settings: &[(&str, &str)]) {
    let guide = Guide::read(name);
    let folder = temporary_folder();
    // `dev` reads its configuration when it starts.
    for step in &guide.steps {
        if let Step::File { name, text } = step
            && name == "flagstream.toml"
        {
            write(&folder.path().join(name), text);
        }
    }
    let dev = Dev::start_with(folder.path(), settings);
    let shell = Shell::new(folder.path(), &dev);
    let (mut count, mut background) = (0, Vec::new());
    for step in &guide.steps {
        match step {
            Step::File { name, text } => write(&folder.path().join(name), &shell.adapted(text)),
            Step::Commands(commands) => {
                count += commands.list.len();
                run(&shell, commands, &mut background);
            }
        }
    }
    for (running, expected) in &background {
        // What later parts of the guide change is printed behind it.
        until_printed(&format!("{expected}…"), TEST_TIMEOUT, || shell.printed(running));
    }
    assert!(count >= least, "{name}: {count} commands");
}

fn run(shell: &Shell, commands: &Commands, background: &mut Vec<(Background, String)>) {
    for (command, expected) in &commands.list {
        match commands.mode {
            Mode::Once => {
                let (is_success, printed) = shell.run(command);
                assert!(
                    guide::fits(expected, &printed),
                    "{command}\nexpected: {expected}\nprinted: {printed}"
                );
                assert!(is_success || !expected.is_empty(), "{command}");
            }
            Mode::Eventually => {
                let command = guide::without_sleep(command);
                until_printed(expected, EVENTUALLY, || shell.run(&command).1);
            }
            Mode::InTheBackground => background.push((shell.start(command), expected.clone())),
        }
    }
}

/// Looks at what is printed until it is what the guide says.
fn until_printed(expected: &str, limit: Duration, printed: impl Fn() -> String) {
    let deadline = Instant::now() + limit;
    loop {
        let last = printed();
        if guide::fits(expected, &last) {
            return;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: expected: {expected}\nprinted: {last}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
