//! Structured logs on stderr. Stdout is for data.
//!
//! Logging never ends or fails anything: a log line that cannot be written (full disk, closed pipe) is dropped. One
//! event is one line: control characters in its text are escaped, so that external text cannot forge lines or control a
//! terminal. The rate of every log statement is limited.

mod limited;
mod writer;

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};
use crate::kafka::client;

use limited::Limited;
use writer::{Controls, LogWriter};

/// Default levels of verbose libraries. A filter that names a library overrides its level.
const QUIET: &[(&str, &str)] = &[
    ("librdkafka", "warn"),
    ("rdkafka", "warn"),
    // Repeats at every reconnect what librdkafka's log lines and our clients' errors already report.
    ("rdkafka::client", "off"),
    ("hyper", "warn"),
    ("hyper_util", "warn"),
    ("h2", "warn"),
    ("reqwest", "warn"),
    ("fjall", "warn"),
    ("lsm_tree", "warn"),
];

/// Installs the subscriber, so that `tracing` (and `log`, for libraries) writes to stderr. Call once per process.
pub fn init(log: &LogConfig) -> anyhow::Result<()> {
    let colours = std::io::stderr().is_terminal();
    let controls = match (log.format, colours) {
        (LogFormat::Json, _) => Controls::EscapedAlready,
        (LogFormat::Text, true) => Controls::EscapeAllButColours,
        (LogFormat::Text, false) => Controls::Escape,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(&log.filter)?)
        .with_writer(move || LogWriter::new(std::io::stderr(), controls))
        // The library reports a failed write on stderr with a macro that panics if that fails too.
        .log_internal_errors(false)
        .with_ansi(colours);
    let installed = match log.format {
        LogFormat::Text => subscriber.map_event_format(|text| Limited::new(text, false)).finish().try_init(),
        LogFormat::Json => {
            let subscriber = subscriber.json().flatten_event(true);
            subscriber.map_event_format(|json| Limited::new(json, true)).finish().try_init()
        }
    };
    installed.context("logs")
}

/// The kind of command that logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A command that ends by itself and reports its own errors, which librdkafka's log lines would only repeat.
    Short,
    Lasting,
}

/// Initializes logging of a command: warnings, or the filter in `FLAGSTREAM_LOG`.
pub fn init_for_command(command: Command) -> anyhow::Result<()> {
    let filter = std::env::var("FLAGSTREAM_LOG").ok();
    let filter = filter.filter(|filter| EnvFilter::builder().parse(filter).is_ok());
    let default = match command {
        Command::Short => format!("warn,{}=off", client::LOG_TARGET),
        Command::Lasting => "warn".to_owned(),
    };
    init(&LogConfig { filter: filter.unwrap_or(default), format: LogFormat::Text })
}

fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    let mut filter = EnvFilter::builder().parse(text).context("FLAGSTREAM_LOG")?;
    // `debug` without a target applies to flagstream only. A library's level is changed by naming it in the filter.
    for (library, level) in QUIET.iter().filter(|(library, _)| !names(text, library)) {
        let level = if text.trim() == "off" { "off" } else { *level };
        filter = filter.add_directive(format!("{library}={level}").parse()?);
    }
    Ok(filter)
}

fn names(filter: &str, target: &str) -> bool {
    filter.split(',').any(|directive| {
        let named = directive.split(['=', '[']).next().unwrap_or_default().trim();
        named == target || named.strip_prefix(target).is_some_and(|rest| rest.starts_with("::"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_named() {
        let text = |filter_text| filter(filter_text).map(|f| f.to_string()).unwrap_or_default();
        assert!(text("debug").contains("librdkafka=warn"));
        assert!(text("info,librdkafka=debug").contains("librdkafka=debug"));
        assert!(!text("info,librdkafka=debug").contains("librdkafka=warn"));
        assert!(text("off").contains("rdkafka=off"));
        assert!(filter("flagstream=loud").is_err());
    }
}
