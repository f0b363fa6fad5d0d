//! Lines on stdout and stderr. Either may be closed or full at any time.
//!
//! Nothing else in this crate prints: the macros of the standard library panic when the output fails.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line of data on stdout. `false` means that nobody reads stdout any more: the command ends without an error.
pub fn line(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let printed = writeln!(out, "{text}").and_then(|()| out.flush());
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        printed => printed.map(|()| true),
    }
}

/// Prints a line for people on stderr. It is dropped if stderr cannot be written.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
