//! The properties of the terminal that text is printed on.

use std::io::{IsTerminal, stdout};

/// Width if stdout is not a terminal.
const WIDTH_CHARS: usize = 100;
const WIDTH_CHARS_MIN: usize = 40;

#[derive(Debug, Clone, Copy)]
pub struct Screen {
    pub width: usize,
    pub colour: bool,
    /// Whether stdout is a terminal, so that printed text can be overwritten.
    pub terminal: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Good,
    Bad,
    Plain,
}

impl Screen {
    pub fn of_stdout() -> Self {
        let terminal = stdout().is_terminal();
        let width = terminal_size::terminal_size().map_or(WIDTH_CHARS, |(width, _)| width.0.into());
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        Self { width: width.max(WIDTH_CHARS_MIN), colour, terminal }
    }

    pub fn painted(&self, text: &str, colour: Colour) -> String {
        match colour {
            Colour::Good if self.colour => format!("\x1b[32m{text}\x1b[0m"),
            Colour::Bad if self.colour => format!("\x1b[31m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }

    /// Wraps the text at spaces; all lines but the first begin with `indent`.
    pub fn wrapped(&self, text: &str, indent: &str) -> Vec<String> {
        let (mut lines, mut line) = (Vec::new(), String::new());
        for word in text.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > self.width {
                lines.push(std::mem::replace(&mut line, format!("{indent}{word}")));
                continue;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_longer_than_the_screen() {
        let screen = Screen { width: 10, colour: false, terminal: false };
        assert_eq!(screen.wrapped("- one two three", "  "), ["- one two", "  three"]);
        assert_eq!(screen.wrapped("", "  "), [""]);
    }
}
