//! `flagstream erase`: removes or anonymises the data stored about a user.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::audit::erase::Erasure;
use crate::database::audited::Actor;
use crate::manage::{UserErasure, erase_user};

use super::{Global, Output, UsageError, database, print};

/// Maximum length of a user id that is read from a file, in bytes.
const USER_MAX_BYTES: u64 = 64 << 10;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("who").required(true).args(["user", "user_file"]))]
pub struct Args {
    /// User id, as services send it
    #[arg(long, value_name = "ID")]
    pub user: Option<String>,
    /// Read the user id from this file, or from standard input with `-`. An option's value is visible to other
    /// processes and stays in the shell's history
    #[arg(long, value_name = "FILE")]
    pub user_file: Option<PathBuf>,
    /// Keep the evaluations, but remove everything that identifies the user
    #[arg(long)]
    pub anonymise: bool,
    /// Reason for the change log, for example the number of a request. Do not name the user here
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let has_attributes = !config.attributes.tables.is_empty();
    if config.database.url.is_none() && config.redis.url.is_none() && !has_attributes {
        let message = "erase: neither DATABASE_URL nor REDIS_URL is set, and attributes are not enabled";
        return Err(UsageError(message.to_owned()).into());
    }
    let user = user(&args)?;
    let database = match &config.database.url {
        Some(url) => Some(database::open(url, "flagstream-erase").await?),
        None => None,
    };
    let how = if args.anonymise { Erasure::Anonymise } else { Erasure::Remove };
    let author = Actor { actor: "command line", reason: args.reason.as_deref() };
    let report = erase_user(&config, database.as_ref(), &user, how, author).await?;
    print::line(&match global.output {
        Output::Json => serde_json::to_string(&report)?,
        Output::Text => text(&args, &report).join("\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn user(args: &Args) -> anyhow::Result<String> {
    let user = match (&args.user, &args.user_file) {
        (Some(user), _) => user.clone(),
        (None, Some(file)) if file.as_os_str() == "-" => read_user(std::io::stdin(), "standard input")?,
        (None, Some(file)) => {
            let name = file.display().to_string();
            read_user(std::fs::File::open(file).with_context(|| name.clone())?, &name)?
        }
        (None, None) => String::new(),
    };
    if user.is_empty() {
        return Err(UsageError("erase: expected a user id, got an empty text".to_owned()).into());
    }
    Ok(user)
}

/// Reads one user id, with or without a line end after it. Anything else is refused: erasing what the caller did not mean,
/// or less than that, cannot be undone.
fn read_user(input: impl Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    // One line end more than the longest id, and one byte more, which shows that there is more.
    input.take(USER_MAX_BYTES + 3).read_to_end(&mut bytes).with_context(|| name.to_owned())?;
    let refused = |why: String| Err(UsageError(format!("erase: {name}: {why}")).into());
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").filter(|_| bytes.ends_with(b"\n")).unwrap_or(line);
    if u64::try_from(line.len()).unwrap_or(u64::MAX) > USER_MAX_BYTES {
        return refused(format!("expected one user id of at most {USER_MAX_BYTES} bytes, got more"));
    }
    let Ok(user) = std::str::from_utf8(line) else {
        return refused("expected a user id in UTF-8".to_owned());
    };
    if user.contains(['\n', '\r']) {
        return refused(
            "expected one user id, got several lines: run the command once for each user".to_owned(),
        );
    }
    Ok(user.to_owned())
}

fn text(args: &Args, report: &UserErasure) -> Vec<String> {
    let done = if args.anonymise { "anonymised" } else { "removed" };
    let database = &report.database;
    let mut lines = vec![
        format!("{} rows {done}, {} keys removed", database.rows, report.keys),
        format!(
            "removed from {} entries of the change log and {} recorded versions of flags",
            database.changes, database.versions
        ),
    ];
    if !database.erasure_id.is_empty() {
        lines.push(format!("recorded in the change log as erasure {}", database.erasure_id));
    }
    if report.attributes > 0 {
        lines.push("the attributes of the user were removed".to_owned());
    }
    lines.push("not changed by this command:".to_owned());
    lines.extend(report.kept.iter().map(|kept| format!("  {}: {}", kept.place, kept.why)));
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> Result<String, String> {
        read_user(input, "ids.txt").map_err(|error| {
            assert!(error.is::<UsageError>(), "{error}");
            error.to_string()
        })
    }

    #[test]
    fn one_user_id_is_read_from_a_file_and_nothing_else() {
        for (text, user) in
            [("ann", "ann"), ("ann\n", "ann"), ("ann\r\n", "ann"), (" a b\t\n", " a b\t"), ("", "")]
        {
            assert_eq!(read(text.as_bytes()).as_deref(), Ok(user), "{text:?}");
        }
        for text in ["ann\nbob", "ann\nbob\n", "ann\n\n", "\nann", "ann\r\nbob\r\n", "ann\rbob"] {
            assert!(
                read(text.as_bytes())
                    .unwrap_err()
                    .contains("ids.txt: expected one user id, got several lines")
            );
        }
        assert!(read(b"\xff").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn a_user_id_that_is_too_long_is_refused_and_never_cut() {
        let longest = "x".repeat(usize::try_from(USER_MAX_BYTES).unwrap());
        for end in ["", "\n", "\r\n"] {
            assert_eq!(read(format!("{longest}{end}").as_bytes()).as_deref(), Ok(longest.as_str()));
        }
        for more in ["x", "x\n", "xx", "\n\n\n", "\nbob\n", "xxxxxxxx"] {
            let error = read(format!("{longest}{more}").as_bytes()).unwrap_err();
            assert!(error.contains("65536 bytes") || error.contains("several lines"), "{error}");
        }
        // A character at the limit is not cut either.
        let error = read(format!("{}é", &longest[1..]).as_bytes()).unwrap_err();
        assert!(error.contains("65536 bytes"), "{error}");
    }
}
