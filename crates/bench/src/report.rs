//! The benchmarks as commands, and their reports as text.

use std::process::ExitCode;

use crate::attributes::{self, AttributesArgs, AttributesReport};
use crate::compare::{self, CompareArgs, CompareReport};
use crate::edge::{self, EdgeArgs, EdgeReport};
use crate::experiment::{self, ExperimentArgs, ExperimentReport};
use crate::http::{self, ArmReport, HttpArgs, HttpReport, ServerArgs};
use crate::latency::{self, LatencyArgs, LatencyReport};
use crate::listeners::{self, ListenersArgs, ListenersReport};
use crate::outage::{self, OutageArgs, OutageReport};
use crate::redis_cache::{self, WarmArgs, WarmReport};
use crate::replay::{self, ReplayArgs, ReplayReport};
use crate::sink::chain::{self, ChainArgs, ChainReport};
use crate::sink::{self, SinkArgs, SinkReport};
use crate::stream::{self, StreamArgs, StreamReport};
use crate::tracing_cost::{self, TracingArgs, TracingReport};
use crate::unleash_api::{self, StreamsReport, UnleashApiArgs, UnleashApiReport};

use flagstream::cli::{Global, Output, print as output};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Throughput of a backlog through the whole pipeline on a real Kafka, compared with a minimal loop
    Stream(StreamArgs),
    /// Time from a request's timestamp to its result at a steady rate, compared with a minimal loop
    Latency(LatencyArgs),
    /// Throughput of the audit sink on a real Kafka and Postgres, compared with a COPY of the same rows
    Sink(SinkArgs),
    /// Throughput of the audit sink with the hash chain, compared with none
    Chain(ChainArgs),
    /// Throughput of a replay of recorded evaluations, compared with a COPY of the same rows
    Replay(ReplayArgs),
    /// Time to compute the results of one large experiment in Postgres
    Experiment(ExperimentArgs),
    /// A table of attributes on a real Kafka: load, restart, memory, and evaluations with a join compared with none
    Attributes(AttributesArgs),
    /// Redis cache: throughput of writes compared with plain SETs, and the effect of one changed flag among many keys
    Warm(WarmArgs),
    /// Effect of Redis outages on evaluation and the audit trail, compared with no outage
    Trouble(OutageArgs),
    /// Answers per CPU second over HTTP with all events published (and audited, with a database), compared with the
    /// same server returning a fixed body and with Unleash Edge
    Http(HttpArgs),
    /// API for Unleash's SDKs: answers per CPU second, compared with Unleash Edge; or, with --streams, the time of a
    /// change to many open streams
    UnleashApi(UnleashApiArgs),
    /// Edge API of a running service under short requests while flags change; fails unless most answers are cache hits
    /// with low latency
    Edge(EdgeArgs),
    /// Two builds of this program in turn with one benchmark; fails if the new one is slower, outside the noise
    Compare(CompareArgs),
    /// Throughput of a backlog with OpenTelemetry, sampled and not, compared with none
    Tracing(TracingArgs),
    /// Server memory per idle change stream
    Listeners(ListenersArgs),
    /// The server process that `http`, `listeners` and `unleash-api` measure
    #[command(hide = true)]
    HttpServer(ServerArgs),
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    match command {
        Command::Stream(args) => print(global, &stream::run(&args, config).await?, stream_text),
        Command::Sink(args) => print(global, &sink::run(&args, config).await?, sink_text),
        Command::Chain(args) => print(global, &chain::run(&args, config).await?, chain_text),
        Command::Replay(args) => print(global, &replay::run(&args, config).await?, replay_text),
        Command::Http(args) => print(global, &http::run(&args, config).await?, http_text),
        Command::UnleashApi(args) => print(global, &unleash_api::run(&args).await?, unleash_api_text),
        Command::Listeners(args) => print(global, &listeners::run(&args).await?, listeners_text),
        Command::HttpServer(args) => http::serve(&args, config).await,
        Command::Edge(args) => {
            let report = edge::run(&args).await?;
            print(global, &report, edge_text)?;
            return Ok(if report.met { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Compare(args) => {
            let report = compare::run(&args).await?;
            print(global, &report, compare_text)?;
            return Ok(if report.has_regressions() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        Command::Tracing(args) => print(global, &tracing_cost::run(&args).await?, tracing_text),
        Command::Latency(args) => print(global, &latency::run(&args, config).await?, latency_text),
        Command::Experiment(args) => print(global, &experiment::run(&args, config).await?, experiment_text),
        Command::Attributes(args) => print(global, &attributes::run(&args, config).await?, attributes_text),
        Command::Warm(args) => print(global, &redis_cache::run(&args, config).await?, warm_text),
        Command::Trouble(args) => print(global, &outage::run(&args, config).await?, outage_text),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn print<R: serde::Serialize>(global: &Global, report: &R, text: fn(&R) -> String) -> anyhow::Result<()> {
    match global.output {
        Output::Json => output::line(&serde_json::to_string(report)?)?,
        Output::Text => output::line(&text(report))?,
    };
    Ok(())
}

fn stream_text(report: &StreamReport) -> String {
    let mut lines = vec![
        format!(
            "{} requests, {} flags, {} partitions, {} workers",
            report.requests, report.flags, report.partitions, report.workers
        ),
        format!("{:28} {:>12} {:>14} {:>5}  rounds", "arm", "requests/s", "own µs/request", "busy"),
    ];
    lines.extend(report.arms.iter().map(|arm| {
        let (median, cpu) = (arm.median, arm.cpu_microseconds_per_request);
        let busy = arm.busy.map_or_else(|| "–".to_owned(), |busy| format!("{busy:.2}"));
        format!("{:28} {median:>12.0} {cpu:>14.2} {busy:>5}  {:?}", arm.arm, arm.requests_per_second)
    }));
    lines.extend(report.ratios.iter().map(|(name, ratio)| format!("{name}: {ratio:.2}")));
    lines.join("\n")
}

fn compare_text(report: &CompareReport) -> String {
    let mut lines = vec![format!("{}: {} rounds; median (quartiles)", report.benchmark, report.rounds)];
    lines.extend(compared_lines(&report.arms, ["base", "new"]));
    lines.join("\n")
}

/// A table of arms that were compared in turn.
fn compared_lines(arms: &[compare::Compared], [base, new]: [&str; 2]) -> Vec<String> {
    let ratio = format!("{new} / {base}");
    let mut lines = vec![format!("{:32} {base:>36} {new:>36} {ratio:>22}", "arm")];
    lines.extend(arms.iter().map(|arm| {
        let shown = |of: compare::Quartiles| format!("{:.0} ({:.0} to {:.0})", of.median, of.lower, of.upper);
        let ratio = format!("{:.3} ({:.3} to {:.3})", arm.ratio, arm.lowest, arm.highest);
        let verdict = if arm.is_regression { "  REGRESSION" } else { "" };
        format!("{:32} {:>36} {:>36} {ratio:>22}{verdict}", arm.arm, shown(arm.base), shown(arm.new))
    }));
    lines
}

fn tracing_text(report: &TracingReport) -> String {
    let TracingReport { requests, rounds, arms, collected_bytes } = report;
    let mut lines =
        vec![format!("{requests} requests a run, {rounds} rounds; requests/s: median (quartiles)")];
    lines.extend(compared_lines(arms, ["off", "on"]));
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    lines.extend(
        collected_bytes.iter().map(|(arm, bytes)| format!("collected, {arm}: {:.1} MiB", mib(*bytes))),
    );
    lines.join("\n")
}

fn replay_text(report: &ReplayReport) -> String {
    let ReplayReport { rows, flags, copied_per_second, replayed_per_second, ratio } = report;
    format!(
        "{rows} evaluations of {flags} flags\ncopied/s: {copied_per_second:.0?}\n\
         replayed/s: {replayed_per_second:.0?}\nratio: {ratio:.2}"
    )
}

fn http_text(report: &HttpReport) -> String {
    let mut lines = vec![format!("{} flags, {} connections", report.flags, report.connections)];
    lines.extend(arm_lines(&report.arms, &report.ratios));
    let half = &report.half_load;
    lines.push(format!(
        "one flag at {:.0}/s: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
        half.rate, half.p50, half.p99, half.p999
    ));
    lines.push(format!("{} events in Kafka of {} evaluations", report.published.0, report.published.1));
    lines.extend(report.audited.map(|rows| format!("{rows} rows in Postgres")));
    lines.push(format!("memory at most {} MiB", report.peak_memory_bytes >> 20));
    lines.join("\n")
}

/// A table of arms, and their ratios.
fn arm_lines(arms: &[ArmReport], ratios: &[(String, f64)]) -> Vec<String> {
    let width = arms.iter().map(|arm| arm.arm.len()).max().unwrap_or_default().max(28);
    let mut lines =
        vec![format!("{:width$} {:>9} {:>14} {:>12}  rounds", "arm", "bytes", "answers/CPU s", "answers/s")];
    lines.extend(arms.iter().map(|arm| {
        let (bytes, median, rate) = (arm.answer_bytes, arm.median, arm.answers_per_second);
        format!("{:width$} {bytes:>9} {median:>14.0} {rate:>12.0}  {:?}", arm.arm, arm.answers_per_cpu_second)
    }));
    lines.extend(ratios.iter().map(|(name, ratio)| format!("{name}: {ratio:.2}")));
    lines
}

fn unleash_api_text(report: &UnleashApiReport) -> String {
    let mut lines = vec![format!("{} flags", report.flags)];
    match &report.streams {
        Some(streams) => lines.extend(streams_lines(streams)),
        None => {
            lines.push(format!("{} connections", report.connections));
            lines.extend(arm_lines(&report.arms, &report.ratios));
        }
    }
    lines.join("\n")
}

fn streams_lines(report: &StreamsReport) -> [String; 3] {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (before, connected, later) =
        (mib(report.before_bytes), mib(report.connected_bytes), mib(report.later_bytes));
    [
        format!("{} streams, connected in {:.1} s", report.streams, report.connect_seconds),
        format!(
            "{before:.1} MiB before, {connected:.1} MiB connected, {later:.1} MiB after the changes: {:.1} KiB each",
            report.bytes_per_stream / 1_024.0
        ),
        format!(
            "{} changes to the last byte: p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms; last stream of each change {:.0?} ms",
            report.changes, report.p50_ms, report.p99_ms, report.longest_ms, report.last_stream_ms
        ),
    ]
}

fn edge_text(report: &EdgeReport) -> String {
    let EdgeReport { calls, calls_per_second, hits, hit_rate, p50_ms, p95_ms, p99_ms, .. } = report;
    let mut lines = vec![
        format!("{calls} calls, {calls_per_second:.0}/s; {hits} hits ({:.1} %)", hit_rate * 100.0),
        format!("p50 {p50_ms:.2} ms, p95 {p95_ms:.2} ms, p99 {p99_ms:.2} ms"),
        format!(
            "{} updates, {} removals; {} calls failed, {} answers were stale",
            report.updates, report.removals, report.failed, report.stale
        ),
    ];
    lines.extend(report.failures.iter().cloned());
    lines.push(
        if report.met { "met" } else { "not met: over 80 % hits, p95 under 200 ms, no failure" }.to_owned(),
    );
    lines.join("\n")
}

fn listeners_text(report: &ListenersReport) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (before, connected, later) =
        (mib(report.before_bytes), mib(report.connected_bytes), mib(report.later_bytes));
    let mut lines = vec![format!(
        "{} listeners: {before:.1} MiB before, {connected:.1} MiB connected, {later:.1} MiB later: {:.1} KiB each",
        report.listeners,
        report.bytes_per_listener / 1_024.0
    )];
    lines.extend(report.reconnects.iter().map(|reconnect| {
        format!(
            "all reconnect at once: {:.2} s until all are back, {} refused attempts, {:.1} MiB at most; evaluations \
             p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms (before: p99 {:.1} ms), {} failed",
            reconnect.seconds,
            reconnect.refused,
            mib(reconnect.peak_bytes),
            reconnect.evaluations.p50_ms,
            reconnect.evaluations.p99_ms,
            reconnect.evaluations.longest_ms,
            reconnect.before.p99_ms,
            reconnect.evaluations.failed,
        )
    }));
    lines.join("\n")
}

fn latency_text(report: &LatencyReport) -> String {
    let mut lines = vec![format!(
        "{:28} {:>8} {:>9} {:>9} {:>9}  p99 of each round",
        "arm", "rate/s", "p50 ms", "p99 ms", "p99.9 ms"
    )];
    lines.extend(report.rows.iter().map(|row| {
        let (p50, p99, p999) = (row.p50, row.p99, row.p999);
        format!("{:28} {:>8} {p50:>9.1} {p99:>9.1} {p999:>9.1}  {:?}", row.arm, row.rate, row.p99_rounds)
    }));
    lines.extend(report.ratios.iter().map(|(name, ratio)| format!("{name}: {ratio:.2}")));
    lines.join("\n")
}

fn sink_text(report: &SinkReport) -> String {
    let mut lines = sink_arm_lines(report.rows, report.partitions, &report.arms);
    lines.push(format!("flagstream sink / raw COPY, all of them: {:.2}", report.ratio));
    lines.extend(
        report
            .experiments
            .iter()
            .map(|(arm, ratio)| format!("{arm}, and conversions / flagstream sink: {ratio:.2}")),
    );
    lines.push(format!("requests to rows, a backlog: {:.0} rows/s", report.pipeline.rows_per_second));
    for (what, lag) in [("event", &report.lag), ("request", &report.pipeline.lag)] {
        let (rate, p50, p99) = (lag.rows_per_second, lag.p50_ms, lag.p99_ms);
        lines.push(format!("{what} to row at {rate}/s: p50 {p50:.0} ms, p99 {p99:.0} ms"));
    }
    for question in &report.questions {
        let (p50, p99) = (question.p50_ms, question.p99_ms);
        let what = question.question;
        lines.push(format!("{what} of {} rows: p50 {p50:.2} ms, p99 {p99:.2} ms", report.history));
        lines.extend(question.plan.iter().map(|line| format!("    {line}")));
    }
    lines.join("\n")
}

/// A table of sinks and of what they are compared with.
fn sink_arm_lines(rows: u64, partitions: i32, arms: &[sink::ArmReport]) -> Vec<String> {
    let mut lines = vec![
        format!("{rows} rows, {partitions} partitions"),
        format!("{:28} {:>12} {:>16}  rounds", "arm", "rows/s", "Postgres µs/row"),
    ];
    lines.extend(arms.iter().map(|arm| {
        let cpu = arm.postgres_microseconds_per_row.unwrap_or(f64::NAN);
        format!("{:28} {:>12.0} {cpu:>16.2}  {:?}", arm.arm, arm.median, arm.rows_per_second)
    }));
    lines
}

fn chain_text(report: &ChainReport) -> String {
    let mut lines = sink_arm_lines(report.rows, report.partitions, &report.arms);
    lines.push(format!("with / without, medians: {:.3}", report.ratio));
    lines.push(format!("with / without, each round: {:.3?}", report.ratio_rounds));
    lines.push(format!(
        "CPU time of this process: {:.2} µs/row with, {:.2} µs/row without",
        report.process_microseconds_per_row[0], report.process_microseconds_per_row[1]
    ));
    lines.join("\n")
}

fn experiment_text(report: &ExperimentReport) -> String {
    let ExperimentReport { users, conversions, metrics, seconds, median } = report;
    format!(
        "{users} users, {conversions} conversions, {metrics} metrics\nresults computed in {median:.2} s: {seconds:.2?}"
    )
}

fn attributes_text(report: &AttributesReport) -> String {
    let per_second = report.rows as f64 / report.load_seconds;
    let lines = [
        format!("{} rows of {} bytes", report.rows, report.row_bytes),
        format!(
            "read from Kafka in {:.1} s ({per_second:.0} rows/s), {:.0} MiB on disk",
            report.load_seconds, report.disk_mib
        ),
        format!("start with all rows on disk: {:.2} s", report.restart_seconds),
        format!(
            "resident memory: {:.0} MiB before, at most {:.0} MiB",
            report.memory_before_mib, report.memory_peak_mib
        ),
        format!(
            "ns per request: {:.0?} without a join, {:.0?} row in memory, {:.0?} any row",
            report.without_ns, report.cached_ns, report.random_ns
        ),
        format!("row in memory / without, medians: {:.3}", report.cached_ratio),
        format!(
            "any row / without, medians: {:.3}; 99th percentile {:.1} µs",
            report.random_ratio, report.random_p99_us
        ),
    ];
    lines.join("\n")
}

fn outage_text(report: &OutageReport) -> String {
    let mut lines = vec![
        format!("{} requests", report.requests),
        format!("{:28} {:>12} {:>12} {:>6}  rounds", "arm", "evaluated/s", "rows/s", "ratio"),
    ];
    lines.extend(report.arms.iter().map(|arm| {
        let (events, median, ratio) = (arm.evaluated_per_second, arm.median, arm.ratio);
        format!("{:28} {events:>12.0} {median:>12.0} {ratio:>6.2}  {:?}", arm.arm, arm.rows_per_second)
    }));
    lines.join("\n")
}

fn warm_text(report: &WarmReport) -> String {
    let mut lines =
        vec![format!("{} values", report.values), format!("{:28} {:>12}  rounds", "arm", "values/s")];
    lines.extend(report.arms.iter().map(|arm| {
        let median = arm.median;
        format!("{:28} {median:>12.0}  {:?}", arm.arm, arm.values_per_second)
    }));
    lines.extend(report.ratios.iter().map(|(name, ratio)| format!("{name}: {ratio:.2}")));
    if let Some(change) = &report.change {
        lines.extend([
            format!("one flag changed among {} keys", change.keys),
            format!("  seen by a reader with the new definition after {:.3} ms", change.seen_here_ms),
            format!("  seen by a reader without it after {:.3} ms", change.seen_elsewhere_ms),
            format!(
                "  last raw key right after {:.2} s ({:.0} keys/s)",
                change.last_raw_key_seconds, change.keys_per_second
            ),
        ]);
        for (what, seen) in [("the sweep", &change.sweep), ("as many plain SETs at a time", &change.control)]
        {
            lines.push(format!(
                "  during {what} ({} values): PING p99 {:.3} ms, longest {:.3} ms; {} commands over 1 ms, longest \
                 {:.3} ms; LATENCY LATEST {:?}",
                seen.values,
                seen.ping_p99_ms,
                seen.longest_ping_ms,
                seen.slow_commands,
                seen.longest_command_ms,
                seen.latency_events
            ));
        }
    }
    lines.join("\n")
}
