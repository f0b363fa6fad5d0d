//! `flagstream bench`: the load tool behind docs/benchmarks.md.

use std::process::ExitCode;

use crate::bench::http::{self, HttpArgs, HttpReport, ServerArgs};
use crate::bench::latency::{self, LatencyArgs, LatencyReport};
use crate::bench::stream::{self, StreamArgs, StreamReport};

use super::{Global, Output};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Throughput of a backlog through the whole pipeline on real Kafka, beside a bare loop
    Stream(StreamArgs),
    /// Time from a request's timestamp to its result at a steady rate, beside a bare loop
    Latency(LatencyArgs),
    /// Answers per CPU second over HTTP, everything published, beside the same server answering a fixed body
    Http(HttpArgs),
    /// The server that `http` measures
    #[command(hide = true)]
    HttpServer(ServerArgs),
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    match command {
        Command::Stream(args) => print(global, &stream::run(&args, config).await?, stream_text),
        Command::Http(args) => print(global, &http::run(&args, config).await?, http_text),
        Command::HttpServer(args) => http::serve(&args, config).await,
        Command::Latency(args) => print(global, &latency::run(&args, config).await?, latency_text),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn print<R: serde::Serialize>(global: &Global, report: &R, text: fn(&R) -> String) -> anyhow::Result<()> {
    match global.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(report)?),
        Output::Text => println!("{}", text(report)),
    }
    Ok(())
}

fn stream_text(report: &StreamReport) -> String {
    let mut lines = vec![
        format!(
            "{} requests, {} flags, {} partitions, {} workers",
            report.requests, report.flags, report.partitions, report.workers
        ),
        format!("{:28} {:>12} {:>14}  rounds", "arm", "requests/s", "own µs/request"),
    ];
    lines.extend(report.arms.iter().map(|arm| {
        let (median, cpu) = (arm.median, arm.cpu_microseconds_per_request);
        format!("{:28} {median:>12.0} {cpu:>14.2}  {:?}", arm.arm, arm.requests_per_second)
    }));
    lines.extend(report.ratios.iter().map(|(name, ratio)| format!("{name}: {ratio:.2}")));
    lines.join("\n")
}

fn http_text(report: &HttpReport) -> String {
    let mut lines = vec![
        format!("{} flags, {} connections", report.flags, report.connections),
        format!("{:28} {:>9} {:>14} {:>12}  rounds", "arm", "bytes", "answers/CPU s", "answers/s"),
    ];
    lines.extend(report.arms.iter().map(|arm| {
        let (bytes, median, rate) = (arm.answer_bytes, arm.median, arm.answers_per_second);
        format!("{:28} {bytes:>9} {median:>14.0} {rate:>12.0}  {:?}", arm.arm, arm.answers_per_cpu_second)
    }));
    lines.extend(report.ratios.iter().map(|(name, ratio)| format!("{name}: {ratio:.2}")));
    let half = &report.half_load;
    lines.push(format!(
        "one flag at {:.0}/s: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
        half.rate, half.p50, half.p99, half.p999
    ));
    lines.push(format!("{} events in Kafka of {} evaluations", report.published.0, report.published.1));
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
