//! `bench unleash-api`: the API for Unleash's SDKs, per CPU second of the server and beside Unleash Edge, and the time of
//! a change to many open streams.
//!
//! ```text
//!  arms: results for frontend SDKs, definitions for server SDKs ─ each plain, with gzip, with an `ETag`
//!        × flagstream, Unleash Edge ─► in turn ─► ratios
//!  --streams: connect all ─► memory ─► changes, one after the other ─► time until each stream has the last byte
//! ```
//!
//! Neither server publishes anything: flagstream by its default, because no flag has impression data. It needs no Kafka.

mod streams;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::http::client::Load;
use crate::http::process::{CLIENT_TOKEN, FRONTEND_TOKEN, Process};
use crate::http::{ArmReport, Round, report, take_turns};
use crate::load::{Asker, asker};

pub use streams::StreamsReport;

/// Minimum number of rounds, so that a median means something.
const MIN_ROUNDS: usize = 3;

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct UnleashApiArgs {
    /// Number of different flags, each with two constraints and a 50 % rollout
    #[arg(long, default_value_t = 350)]
    pub flags: usize,
    /// Number of connections, each with one call at a time
    #[arg(long, default_value_t = 32)]
    pub connections: usize,
    /// Duration of each arm in seconds
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Number of rounds of every arm, in turn, from 3; the report has the median
    #[arg(long, default_value_t = MIN_ROUNDS)]
    pub rounds: usize,
    /// Path of the Unleash Edge program, measured in offline mode with the same flags
    #[arg(long, value_name = "FILE")]
    pub edge: Option<PathBuf>,
    /// Number of streams of `GET /api/client/streaming` that receive changes; they are measured instead of the arms
    #[arg(long)]
    pub streams: Option<usize>,
    /// Number of changes that the streams receive
    #[arg(long, default_value_t = 20)]
    pub changes: usize,
}

#[derive(Debug, serde::Serialize)]
pub struct UnleashApiReport {
    pub flags: usize,
    pub connections: usize,
    pub arms: Vec<ArmReport>,
    pub ratios: Vec<(String, f64)>,
    pub streams: Option<StreamsReport>,
}

/// The kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Frontend,
    Features,
}

/// Form in which the client accepts the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Gzip,
    /// The client has the answer already: `If-None-Match`.
    Known,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Own,
    Edge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Arm {
    kind: Kind,
    form: Form,
    server: Server,
}

impl Arm {
    fn name(self) -> String {
        let server = if self.server == Server::Own { "flagstream" } else { "Unleash Edge" };
        format!("{server}, {}", self.call_name())
    }

    fn call_name(self) -> String {
        let form = match self.form {
            Form::Plain => "",
            Form::Gzip => ", gzip",
            Form::Known => ", known ETag",
        };
        format!(
            "{}{form}",
            if self.kind == Kind::Frontend { "/api/frontend" } else { "/api/client/features" }
        )
    }
}

/// Runs the benchmark.
pub async fn run(args: &UnleashApiArgs) -> anyhow::Result<UnleashApiReport> {
    ensure!(args.connections > 0 && args.seconds > 0, "--connections, --seconds: expected at least 1");
    ensure!(args.rounds >= MIN_ROUNDS, "--rounds: expected at least {MIN_ROUNDS}");
    ensure!(args.flags > 0, "--flags: expected at least 1");
    let folder = std::env::temp_dir().join(format!("flagstream-bench-{}", std::process::id()));
    let report = match args.streams {
        Some(streams) => streams::run(args, streams, &folder).await.map(|report| (Vec::new(), Some(report))),
        None => measure(args, &folder).await.map(|arms| (arms, None)),
    };
    // The folder may not exist.
    let _ = std::fs::remove_dir_all(&folder);
    let (arms, streams) = report?;
    let ratios = ratios(&arms);
    let (flags, connections) = (args.flags, args.connections);
    Ok(UnleashApiReport { flags, connections, arms, ratios, streams })
}

/// Starts flagstream with the API for SDKs, the tokens of the benchmark, and these settings.
async fn own(flags: usize, folder: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Process> {
    let tokens = format!("frontend={FRONTEND_TOKEN},backend={CLIENT_TOKEN}");
    let own = [
        ("FLAGSTREAM_UNLEASH_API__ENABLED", "true"),
        ("FLAGSTREAM_UNLEASH_API__PRETRUSTED_TOKENS", &*tokens),
        ("FLAGSTREAM_UNLEASH_API__EVENTS", "impressions"),
        ("FLAGSTREAM_API__DURABILITY", "memory"),
    ];
    Process::own(flags, folder, &[&own[..], settings].concat()).await
}

/// The servers.
struct Setup<'s> {
    args: &'s UnleashApiArgs,
    own: Process,
    edge: Option<Process>,
}

async fn measure(args: &UnleashApiArgs, folder: &Path) -> anyhow::Result<Vec<ArmReport>> {
    let edge = match &args.edge {
        Some(program) => Some(Process::edge(program, args.flags, folder).await?),
        None => None,
    };
    let setup = Setup { args, own: own(args.flags, folder, &[]).await?, edge };
    let mut arms = Vec::new();
    for kind in [Kind::Frontend, Kind::Features] {
        for form in [Form::Plain, Form::Gzip, Form::Known] {
            arms.push(Arm { kind, form, server: Server::Own });
            arms.extend(setup.edge.as_ref().map(|_| Arm { kind, form, server: Server::Edge }));
        }
    }
    let rounds = take_turns(&arms, args.rounds, Arm::name, async |arm| setup.measure(arm).await).await?;
    Ok(rounds.into_iter().map(|(name, rounds)| report(name, &rounds)).collect())
}

impl Setup<'_> {
    /// Answers per CPU second of one arm.
    async fn measure(&self, arm: Arm) -> anyhow::Result<Round> {
        let server = match arm.server {
            Server::Own => &self.own,
            Server::Edge => self.edge.as_ref().context("Edge is not running")?,
        };
        let known = match arm.form {
            Form::Known => Some(known_tag(server, arm.kind, self.args.flags).await?),
            _ => None,
        };
        let call = |number| call(arm, number, self.args.flags, known.as_deref());
        let UnleashApiArgs { connections, seconds, .. } = *self.args;
        let time = Duration::from_secs(seconds);
        let load = Load { address: &server.address, call: &call, connections, time, rate: None };
        let cpu = server.cpu_seconds()?;
        let measured = load.run().await?;
        Ok((measured.answers as f64 / (server.cpu_seconds()? - cpu), measured))
    }
}

/// The entity tag of call 0.
async fn known_tag(server: &Process, kind: Kind, flags: usize) -> anyhow::Result<String> {
    let (path, token) = path(kind, 0, flags);
    let call = reqwest::Client::builder().no_proxy().build()?.get(format!("http://{}{path}", server.address));
    let response = call.header("authorization", token).send().await?.error_for_status()?;
    let tag = response.headers().get("etag").with_context(|| format!("{path}: no ETag"))?;
    Ok(tag.to_str()?.to_owned())
}

/// The complete bytes of call `number`.
fn call(arm: Arm, number: u64, flags: usize, known: Option<&str>) -> Vec<u8> {
    // An entity tag belongs to one context.
    let (path, token) = path(arm.kind, if known.is_some() { 0 } else { number }, flags);
    let form = match (arm.form, known) {
        (Form::Gzip, _) => "accept-encoding: gzip\r\n".to_owned(),
        (_, Some(tag)) => format!("if-none-match: {tag}\r\n"),
        _ => String::new(),
    };
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: {token}\r\n{form}\r\n").into_bytes()
}

/// The path of call `number`, and the token for it.
fn path(kind: Kind, number: u64, flags: usize) -> (String, &'static str) {
    if kind == Kind::Features {
        return ("/api/client/features".to_owned(), CLIENT_TOKEN);
    }
    let Asker { user, session, region, tier, app_version, .. } = asker(number, flags);
    let properties = [("region", region), ("subscription_tier", tier)];
    let properties: String =
        properties.iter().map(|(name, value)| format!("&properties%5B{name}%5D={value}")).collect();
    let version = format!("&properties%5Bapp_version%5D=4.2.{app_version}");
    let path =
        format!("/api/frontend?userId={user}&sessionId=s-{session}&appName=bench{properties}{version}");
    (path, FRONTEND_TOKEN)
}

/// flagstream relative to Edge, for each pair of arms.
fn ratios(arms: &[ArmReport]) -> Vec<(String, f64)> {
    let of = |server: &str, call: &str| arms.iter().find(|arm| arm.arm == format!("{server}, {call}"));
    let calls = arms.iter().filter_map(|arm| arm.arm.strip_prefix("flagstream, "));
    let ratio = |call: &str| {
        let (own, edge) = (of("flagstream", call)?, of("Unleash Edge", call)?);
        Some((format!("{call}: flagstream / Unleash Edge"), own.median / edge.median))
    };
    calls.filter_map(ratio).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_those_of_sdks() {
        let text = |kind, form, known| {
            let arm = Arm { kind, form, server: Server::Own };
            String::from_utf8(call(arm, 7, 350, known)).unwrap_or_default()
        };
        let plain = text(Kind::Frontend, Form::Plain, None);
        assert!(
            plain.starts_with("GET /api/frontend?userId=user-") && plain.ends_with("\r\n\r\n"),
            "{plain}"
        );
        assert!(plain.contains("&properties%5Bregion%5D=") && !plain.contains("accept-encoding"), "{plain}");
        assert!(plain.contains(&format!("\r\nauthorization: {FRONTEND_TOKEN}\r\n")));
        let gzip = text(Kind::Features, Form::Gzip, None);
        assert!(gzip.contains("\r\naccept-encoding: gzip\r\n") && gzip.contains(CLIENT_TOKEN), "{gzip}");
        let known = text(Kind::Features, Form::Known, Some("\"x\""));
        assert!(known.contains("\r\nif-none-match: \"x\"\r\n"), "{known}");
    }

    #[test]
    fn each_call_is_compared_with_the_same_call_of_edge() {
        let arm = |server, median| {
            let arm = Arm { kind: Kind::Features, form: Form::Gzip, server }.name();
            let answers_per_cpu_second = vec![median];
            ArmReport { arm, answer_bytes: 1, answers_per_cpu_second, median, answers_per_second: median }
        };
        let ratios = ratios(&[arm(Server::Own, 60.0), arm(Server::Edge, 12.0)]);
        assert_eq!(ratios, [("/api/client/features, gzip: flagstream / Unleash Edge".to_owned(), 5.0)]);
    }
}
