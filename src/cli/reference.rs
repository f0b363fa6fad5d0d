//! The reference of all commands in Markdown, generated from the argument parser. docs/reference/cli.md is its output.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};

use super::{Cli, GLOBAL};

const INTRODUCTION: &str = "# Command line

This page is the output of `flagstream man --markdown`. [Commands](../operations.md#commands) has the rules that all
commands follow: exit codes, output, and settings.
";

/// The reference as one Markdown document.
pub fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    let command = Cli::command();
    let global: Vec<&Arg> = command.get_arguments().filter(|arg| is_global(arg)).collect();
    text.push_str("\n## Global options\n");
    table(&mut text, &global);
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        section(&mut text, below, "flagstream", 2);
    }
    text
}

fn section(text: &mut String, command: &Command, parent: &str, level: usize) {
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    // Writing to a String does not fail.
    let _ = write!(text, "\n{} {name}\n\n{}\n", "#".repeat(level), sentence(&about));
    let own: Vec<&Arg> =
        command.get_arguments().filter(|arg| !is_global(arg) && !arg.is_hide_set()).collect();
    if !own.is_empty() {
        table(text, &own);
    }
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        section(text, below, &name, (level + 1).min(4));
    }
}

fn is_global(arg: &Arg) -> bool {
    arg.get_help_heading() == Some(GLOBAL)
}

fn table(text: &mut String, arguments: &[&Arg]) {
    text.push_str("\n| option | meaning |\n|---|---|\n");
    for argument in arguments {
        let help =
            argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let mut meaning = sentence(&help);
        let values = argument.get_possible_values();
        let names: Vec<String> = values
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if !names.is_empty() && argument.get_action().takes_values() {
            let _ = write!(meaning, " One of {}.", names.join(", "));
        }
        let defaults: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| format!("`{}`", value.to_string_lossy()))
            .collect();
        if !defaults.is_empty() && argument.get_action().takes_values() {
            let _ = write!(meaning, " Default: {}.", defaults.join(", "));
        }
        if let Some(variable) = argument.get_env() {
            let _ = write!(meaning, " Environment: `{}`.", variable.to_string_lossy());
        }
        let _ = writeln!(text, "| `{}` | {} |", usage(argument), meaning.trim().replace('|', "&#124;"));
    }
}

/// The argument as it is typed: `-f, --folder <DIR>`, or `<NAME>`.
fn usage(argument: &Arg) -> String {
    let values = argument.get_action().takes_values().then(|| {
        let names = argument.get_value_names().unwrap_or_default();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        if names.is_empty() { argument.get_id().to_string().to_uppercase() } else { names.join(" ") }
    });
    let names = [
        argument.get_short().map(|short| format!("-{short}")),
        argument.get_long().map(|long| format!("--{long}")),
    ];
    let names: Vec<String> = names.into_iter().flatten().collect();
    match (names.is_empty(), values) {
        (true, values) => format!("<{}>", values.unwrap_or_default()),
        (false, Some(values)) => format!("{} <{values}>", names.join(", ")),
        (false, None) => names.join(", "),
    }
    .replace('|', "\\|")
}

/// The text on one line, ending in a point.
fn sentence(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() || line.ends_with(['.', '?', '!']) { line } else { format!("{line}.") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_reference_is_current() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/cli.md");
        let committed = std::fs::read_to_string(file).unwrap();
        let current = markdown();
        assert!(
            committed.trim_end() == current.trim_end(),
            "docs/reference/cli.md: run `cargo run -- man --markdown > docs/reference/cli.md`"
        );
    }

    #[test]
    fn every_command_and_option_has_a_text() {
        for line in markdown().lines().filter(|line| line.starts_with("| `")) {
            let meaning = line.rsplit(" | ").next().unwrap_or_default().trim_end_matches('|').trim();
            assert!(!meaning.is_empty(), "{line}");
        }
        assert!(
            markdown().contains("## flagstream topics manifests")
                || markdown().contains("### flagstream topics manifests")
        );
    }
}
