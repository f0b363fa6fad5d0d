//! Writes lines to stdout and stderr, either of which may be closed or full at any time.
//!
//! All output of this crate goes through this module, because the standard library's macros panic when a write fails.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line of data on stdout. `false` if stdout is closed; the command then ends without an error.
pub fn line(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let printed = writeln!(out, "{text}").and_then(|()| out.flush());
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        printed => printed.map(|()| true),
    }
}

/// Prints a message on stderr. It is dropped if stderr cannot be written.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
