//! Lines on stdout, which may be closed at any time.

use std::io::{self, Write};

/// Prints a line. `false` once nobody reads any more: then it is time to end, and no error.
pub fn line(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let printed = writeln!(out, "{text}").and_then(|()| out.flush());
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        printed => printed.map(|()| true),
    }
}
