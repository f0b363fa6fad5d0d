//! The writer below the log formatter. It escapes control characters and ignores write errors.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Handling of the control characters in a formatted line, except for the line feed at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controls {
    Escape,
    /// The formatter colours the line with the escape character, and itself escapes that character in values.
    EscapeAllButColours,
    /// The format escapes control characters itself.
    EscapedAlready,
}

/// Writes log lines to `out` and never fails: an error of `out` drops the line.
#[derive(Debug)]
pub(super) struct LogWriter<W> {
    out: W,
    controls: Controls,
}

impl<W: Write> LogWriter<W> {
    pub(super) fn new(out: W, controls: Controls) -> Self {
        Self { out, controls }
    }
}

impl<W: Write> Write for LogWriter<W> {
    /// Writes one whole event. The formatter passes each event in a single call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = match self.controls {
            Controls::EscapedAlready => Cow::Borrowed(event),
            Controls::Escape => escape(event, false),
            Controls::EscapeAllButColours => escape(event, true),
        };
        // A full disk or a closed pipe must not end the process, and the error cannot be reported anywhere else.
        let _ = self.out.write_all(&line);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.out.flush();
        Ok(())
    }
}

/// Replaces the control characters of one event by escapes such as `\n` or `\u{1b}`. The line feed at its end stays.
fn escape(event: &[u8], keep_escape_character: bool) -> Cow<'_, [u8]> {
    let (text, end) = match event.strip_suffix(b"\n") {
        Some(text) => (text, "\n"),
        None => (event, ""),
    };
    let text = String::from_utf8_lossy(text);
    let is_escaped = |c: char| c.is_control() && !(keep_escape_character && c == '\u{1b}');
    if !text.contains(is_escaped) {
        return Cow::Borrowed(event);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) {
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    line.push_str(end);
    Cow::Owned(line.into_bytes())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Debug, Clone, Default)]
    pub(crate) struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Buffer {
        pub(crate) fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    /// The output of `log` in text format without colours.
    fn logged(log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let out = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || LogWriter::new(out.clone(), Controls::Escape))
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        buffer.text()
    }

    #[test]
    fn an_error_of_the_output_is_no_error_of_the_writer() {
        let mut writer = LogWriter::new(Full, Controls::Escape);
        assert!(writer.write_all(b"a line\n").is_ok() && writer.flush().is_ok());
    }

    #[test]
    fn text_from_outside_cannot_forge_a_line() {
        let topic = "replies\n2026-01-01T00:00:00Z ERROR flagstream: forged\r\u{1b}[2J\u{85}\u{7f}";
        let ways: [&dyn Fn(); 3] = [
            &|| tracing::warn!(reply_to = topic, "refused"),
            &|| tracing::warn!(reply_to = %topic, "refused"),
            &|| tracing::warn!("refused: {topic}"),
        ];
        for way in ways {
            let text = logged(way);
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.contains("replies\\n2026"), "{text}");
            assert!(text.trim_end_matches('\n').chars().all(|c| !c.is_control()), "{text:?}");
        }
    }

    #[test]
    fn lines_without_control_characters_are_written_as_they_are() {
        let line = "ein Zug nach Köln \\n \u{1f682}\n".as_bytes();
        assert!(matches!(escape(line, false), Cow::Borrowed(same) if same == line));
        let coloured = b"\x1b[33m WARN\x1b[0m text\n";
        assert!(matches!(escape(coloured, true), Cow::Borrowed(_)));
        assert_eq!(escape(b"\x1b[33m a\nb", true).as_ref(), b"\x1b[33m a\\nb");
    }
}
