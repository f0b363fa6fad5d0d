//! `flagstream audit`: verification of the audit trail by its hash chains.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use clap::Subcommand;

use crate::audit;
use crate::audit::verify::{self, Progress, Range, Verified};
use crate::config::Config;
use crate::database::Database;

use super::progress::watched;
use super::{Global, Output, UsageError, database, moment, print};

const BAR: &str = "{wide_bar} {percent:>3} %  {pos} of {len} blocks  {elapsed_precise}";
/// Maximum number of problems printed as text; `--output json` contains more.
const SHOWN_MAX: usize = 50;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check that no evaluation and no entry of the change logs was changed, added or removed
    ///
    /// Compares the rows in Postgres with their hash chains, and the chains with the signed checkpoints in Kafka. Exit
    /// code 1 if anything differs.
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Compare only rows written at this time or later: 2026-01-15T10:30:00Z, 2026-01-15, or a relative time such as 2h
    /// (ago)
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    from: Option<DateTime<Utc>>,
    /// Compare only rows written before this time
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    to: Option<DateTime<Utc>>,
    /// Do not read the checkpoints in Kafka; a chain that was rewritten as a whole is then not detected
    #[arg(long)]
    without_kafka: bool,
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        Command::Verify(args) => verify(args, global).await,
    }
}

async fn verify(args: VerifyArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let config = Arc::new(global.load_config()?);
    let Some(url) = &config.database.url else {
        return Err(UsageError("audit verify: DATABASE_URL is not set".to_owned()).into());
    };
    let Database::Postgres(postgres) = database::open(url, "flagstream-audit-verify").await? else {
        let why = "audit verify: SQLite has no hash chain; set DATABASE_URL to a Postgres database";
        return Err(UsageError(why.to_owned()).into());
    };
    let (range, progress) = (Range { from: args.from, to: args.to }, Progress::default());
    let kafka = (!args.without_kafka).then_some(&config);
    let hasher = audit::hasher(&config);
    let verifying = verify::verify(&postgres, kafka, &hasher, &range, &progress);
    let verified = watched(verifying, BAR, |bar| {
        bar.set_length(progress.expected.load(Ordering::Relaxed));
        bar.set_position(progress.blocks.load(Ordering::Relaxed));
    })
    .await?;
    print::line(&match global.output {
        Output::Json => serde_json::to_string(&verified)?,
        Output::Text => text(&verified, &config).join("\n"),
    })?;
    Ok(if verified.problem_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(verified: &Verified, config: &Config) -> Vec<String> {
    let mut lines = vec![
        format!("{} rows in {} blocks of {} chains", verified.rows, verified.blocks, verified.chains),
        format!("{} entries of the change logs", verified.changes),
    ];
    match verified.checkpoints {
        Some(count) => lines.push(format!("{count} checkpoints in {}", config.topics.audit_checkpoints)),
        None => lines.push("checkpoints in Kafka: not read".to_owned()),
    }
    if verified.unsigned_checkpoints > 0 {
        lines.push(format!(
            "{} checkpoints could not be authenticated: set FLAGSTREAM_AUDIT__CHAIN_KEY",
            verified.unsigned_checkpoints
        ));
    }
    if verified.erased_rows + verified.erased_changes > 0 {
        lines.push(format!(
            "{} rows and {} entries were erased on request",
            verified.erased_rows, verified.erased_changes
        ));
    }
    if verified.blocks_past_retention > 0 {
        lines.push(format!("{} blocks have lost rows to retention", verified.blocks_past_retention));
    }
    if verified.rows_without_block > 0 {
        lines.push(format!(
            "{} rows are outside the chain: they are older than it, or written by a version without it",
            verified.rows_without_block
        ));
    }
    for problem in verified.problems.iter().take(SHOWN_MAX) {
        lines.push(format!("DIFFERENT: {} block {}: {}", problem.chain, problem.number, problem.detail));
    }
    let left = verified.problem_count.saturating_sub(SHOWN_MAX as u64);
    if left > 0 {
        lines.push(format!(
            "and {left} more differences (--output json lists up to {})",
            verify::PROBLEMS_MAX
        ));
    }
    lines.push(match verified.problem_count {
        0 => "nothing was changed".to_owned(),
        1 => "1 difference: the audit trail was changed".to_owned(),
        count => format!("{count} differences: the audit trail was changed"),
    });
    lines
}
