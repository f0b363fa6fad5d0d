//! Edits a body with an external program, which reads it from stdin and writes the new one to stdout.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::kafka::dead_letter::DeadLetterRecord;
use crate::message::request::MAX_REQUEST_BYTES;

/// Timeout for one body.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of the program's output in bytes, larger than any of our topics accepts.
const MAX_OUTPUT_BYTES: usize = 2 * MAX_REQUEST_BYTES;

/// The new body, as the shell command `program` writes it. The program gets the dead letter's code and position in
/// environment variables. An error if the program fails.
pub async fn through(program: &str, dead_letter: &DeadLetterRecord, body: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut child = Command::new("sh")
        .args(["-c", program])
        .env("DEAD_LETTER_CODE", &dead_letter.code)
        .env("DEAD_LETTER_MESSAGE", &dead_letter.message)
        .env("DEAD_LETTER_PLACE", format!("{}/{}", dead_letter.partition, dead_letter.offset))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("sh")?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // The program may exit without reading its input, so a failed write is ignored.
                let _ = stdin.write_all(body).await;
            }
        };
        let read = async {
            let mut output = Vec::new();
            if let Some(stdout) = stdout {
                let most = u64::try_from(MAX_OUTPUT_BYTES).unwrap_or(u64::MAX);
                stdout.take(most + 1).read_to_end(&mut output).await?;
            }
            anyhow::Ok(output)
        };
        // Concurrently, because each may block until the other makes progress.
        let ((), output) = tokio::join!(write, read);
        anyhow::Ok((output?, child.wait().await?))
    };
    let (output, status) = match tokio::time::timeout(RESPONSE_TIMEOUT, talk).await {
        Ok(done) => done?,
        Err(_) => bail!("`{program}` did not finish within {} s", RESPONSE_TIMEOUT.as_secs()),
    };
    anyhow::ensure!(status.success(), "`{program}`: {status}");
    anyhow::ensure!(output.len() <= MAX_OUTPUT_BYTES, "`{program}` wrote more than {MAX_OUTPUT_BYTES} bytes");
    Ok(output)
}
