"""Reads the tracked files of the project: Markdown without code, comments and constants of Rust files."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

TEST_MODULE = re.compile(r"^#\[cfg\(test\)\]\s*(?:#\[[^\n]*\]\s*)*mod \w+ \{", re.MULTILINE)
CONSTANT = re.compile(
    r"((?:^[ \t]*///[^\n]*\n)*)^[ \t]*(?:#\[[^\n]*\]\n[ \t]*)?(?:pub(?:\([a-z ]+\))? )?const ([A-Z][A-Z0-9_]*): "
    r"(usize|u128|u64|u32|u16|u8|i64|i32|i16|f64|(?:std::time::)?Duration) =\s*([^;]+);",
    re.MULTILINE,
)


def tracked(root: Path, *patterns: str) -> list[str]:
    """Tracked files and new files that are not ignored, relative to the root, in alphabetical order."""
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted({name for name in names if (root / name).is_file()})


def without_code(text: str) -> list[str]:
    """The lines of a Markdown text. Lines of code blocks are empty, so that line numbers stay the same."""
    lines, fence = [], None
    for line in text.split("\n"):
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and (fence is None or line.strip().startswith(fence)):
            fence = None if fence else mark.group(1)
            lines.append("")
        else:
            lines.append("" if fence else line)
    return lines


@dataclass(frozen=True)
class Comment:
    """Consecutive comment lines of one kind (`//`, `///` or `//!`)."""

    line: int
    kind: str
    text: str


def comments(text: str) -> list[Comment]:
    """The line comments of a Rust file, joined over consecutive lines. Comments behind code are separate."""
    found: list[Comment] = []
    previous = None
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r"\s*(//[/!]?)(?!/)\s?(.*)$", line)
        if match:
            kind, content = match.group(1), match.group(2).rstrip()
            if previous == (number - 1, kind):
                last = found.pop()
                found.append(Comment(last.line, kind, f"{last.text}\n{content}"))
            else:
                found.append(Comment(number, kind, content))
            previous = (number, kind)
            continue
        behind = re.search(r"(?<![:\"'/])//(?![/!])\s?(.*)$", line)
        # A quotation mark after the slashes belongs to a string that contains them.
        if behind and '"' not in behind.group(1):
            found.append(Comment(number, "//", behind.group(1).rstrip()))
    return found


@dataclass(frozen=True)
class Constant:
    """A numeric constant of a Rust file, with its doc comment on one line."""

    name: str
    type: str
    value: str
    doc: str


def constants(text: str) -> list[Constant]:
    """The constants of a Rust file outside its test module."""
    text = TEST_MODULE.split(text)[0]
    found = []
    for match in CONSTANT.finditer(text):
        doc = " ".join(line.strip()[3:].strip() for line in match.group(1).strip().split("\n") if line.strip())
        value = " ".join(match.group(4).split())
        found.append(Constant(match.group(2), match.group(3).removeprefix("std::time::"), value, doc))
    return found
