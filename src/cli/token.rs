//! `flagstream token`: manages API tokens directly in the database, so that no running service is needed.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use crate::auth::table::{self, Entered, PAGE_TOKENS_MAX, Revoked};
use crate::auth::{NewToken, Restrictions, TokenId};
use crate::database::Database;
use crate::database::audited::Actor;

use super::{Global, Output, UsageError, database, print};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create a token; its secret is printed once
    Create(CreateArgs),
    /// List all tokens, newest first, without their secrets
    List,
    /// Revoke a token; all instances reject it within two seconds
    Revoke {
        /// Id of the token, as printed by `token list`
        id: String,
        /// Reason, stored with the change
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Person or program that uses the token
    #[arg(long)]
    pub name: String,
    /// Scopes, comma-separated: evaluate, read, audit, track, write, delete, admin
    #[arg(long, value_delimiter = ',', required = true)]
    pub scopes: Vec<String>,
    /// Environments of the token; several separated by commas, or `*` for all
    #[arg(long, value_delimiter = ',', required = true)]
    pub environments: Vec<String>,
    /// Projects whose flags the token allows; several with commas (default: all)
    #[arg(long, value_delimiter = ',')]
    pub projects: Vec<String>,
    /// Prefixes of the names of flags that the token allows; several with commas (default: all flags)
    #[arg(long, value_delimiter = ',', value_name = "PREFIXES")]
    pub flag_prefixes: Vec<String>,
    /// Owners whose local flags the token allows; several with commas (default: all flags)
    #[arg(long, value_delimiter = ',')]
    pub owners: Vec<String>,
    /// Unleash SDKs that the token is for: backend or frontend (default: both)
    #[arg(long)]
    pub kind: Option<String>,
    /// Lifetime, such as 90d or 12h (default: the token does not expire)
    #[arg(long, value_name = "DURATION")]
    pub expires_in: Option<String>,
    /// Reason, stored with the change
    #[arg(long)]
    pub reason: Option<String>,
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let url = config.database.url.ok_or_else(|| UsageError("token: DATABASE_URL is not set".to_owned()))?;
    let database = database::open(&url, "flagstream-token").await?;
    let place = || database.to_string();
    match command {
        Command::Create(args) => create(&database, &args, global.output).await.with_context(place),
        Command::List => list(&database, global.output).await.with_context(place),
        Command::Revoke { id, reason } => {
            revoke(&database, &id, reason.as_deref(), global.output).await.with_context(place)
        }
    }
}

async fn create(database: &Database, args: &CreateArgs, output: Output) -> anyhow::Result<ExitCode> {
    let [scopes, environments, projects, flag_prefixes, owners] =
        [&args.scopes, &args.environments, &args.projects, &args.flag_prefixes, &args.owners]
            .map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
    let order = NewToken::check(&args.name, &scopes, &environments, args.expires_in.as_deref());
    let restrictions = Restrictions::of_names(&projects, &flag_prefixes, &owners);
    let order = NewToken::for_kind(NewToken::restricted(order, restrictions), args.kind.as_deref());
    let order = order.map_err(|problems| {
        let option = |field: &str| format!("--{}", field.replace('_', "-"));
        let lines = problems.iter().map(|problem| format!("{}: {}", option(problem.field), problem.message));
        UsageError(lines.collect::<Vec<_>>().join("\n"))
    })?;
    let (token, entered) = table::create(database, &order, author(&actor(), args.reason.as_deref())).await?;
    let text = token.text();
    match output {
        Output::Json => {
            let mut made = entered.json();
            if let Some(members) = made.as_object_mut() {
                members.insert("token".to_owned(), Value::from(text.expose()));
            }
            print::line(&made.to_string())?;
        }
        Output::Text => {
            print::note(format_args!("{}\nThe token, shown this once:", line(&entered)));
            print::line(text.expose())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(database: &Database, output: Output) -> anyhow::Result<ExitCode> {
    let mut last = None;
    loop {
        let page = table::list(database, last, PAGE_TOKENS_MAX).await?;
        for token in &page {
            let printed = match output {
                Output::Json => token.json().to_string(),
                Output::Text => line(token),
            };
            if !print::line(&printed)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        last = match page.last() {
            Some(token) => Some(token.id),
            None => {
                if last.is_none() {
                    print::note("flagstream: no tokens exist");
                }
                return Ok(ExitCode::SUCCESS);
            }
        };
    }
}

async fn revoke(
    database: &Database,
    id: &str,
    reason: Option<&str>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let id = TokenId::parse(id.trim()).ok_or_else(|| {
        UsageError(format!("{id}: expected a token's id, 16 hexadecimal digits as `token list` prints them"))
    })?;
    let revoked = table::revoke(database, id, author(&actor(), reason)).await?;
    let said = match revoked {
        Revoked::Now => "revoked",
        Revoked::Before => "was already revoked",
        Revoked::Unknown => return Err(anyhow!("there is no token {id}")),
    };
    print::line(&match output {
        Output::Json => {
            json!({"id": id.to_string(), "revoked": true, "now": revoked == Revoked::Now}).to_string()
        }
        Output::Text => format!("{id} {said}"),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The actor for the change log. Access to the database is the authorization, so the actor is the operating system's
/// user name.
fn actor() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let user: String = user.unwrap_or_default().chars().filter(|c| !c.is_control()).take(100).collect();
    if user.is_empty() { "command-line".to_owned() } else { format!("command-line:{user}") }
}

fn author<'a>(actor: &'a str, reason: Option<&'a str>) -> Actor<'a> {
    Actor { actor, reason }
}

fn line(token: &Entered) -> String {
    let scopes: Vec<_> = token.grant.scopes.iter().map(|scope| scope.name()).collect();
    let expires =
        token.expires_at.map_or_else(String::new, |at| format!("  until {}", at.format("%F %H:%M:%S UTC")));
    let environments = token.grant.environments.names().join(",");
    let mut restrictions = String::new();
    for (field, names) in token.grant.restrictions.fields() {
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            restrictions.push_str(&format!("  {field}={}", names.join(",")));
        }
    }
    if let Some(kind) = token.grant.kind {
        restrictions.push_str(&format!("  kind={}", kind.name()));
    }
    format!(
        "{}  {:8} {}  {} in {environments}{restrictions}{expires}",
        token.id,
        token.state(),
        token.name,
        scopes.join(",")
    )
}
