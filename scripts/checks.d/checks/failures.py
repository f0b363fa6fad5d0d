"""A short summary of the tests that failed, for the end of a long log of `cargo test`."""

import re
import sys
from pathlib import Path

SECTION = re.compile(r"^---- (\S+) stdout ----$")
PANIC = re.compile(r"panicked at (\S+?):?$")
# What the tools that tests run print about an error: pytest, node's test runner, Maven, Go.
TOLD = re.compile(r"^\s*(E  +\S|FAILED |not ok |\[ERROR\] |--- FAIL|\w*Error: | (left|right): )")
MAX_TOLD = 6
MAX_COLUMNS = 240


def sections(log: str):
    """Name and lines of each failed test, from the part of the log that cargo prints at its end."""
    name, lines = None, []
    for line in log.splitlines():
        found = SECTION.match(line)
        if found or line == "failures:":
            if name:
                yield name, lines
            name, lines = found and found.group(1), []
        elif name:
            lines.append(line)
    if name:
        yield name, lines


def summary(log: str) -> list[str]:
    """At most nine lines per failed test: its name, where it failed, and the errors that it printed."""
    result = []
    for name, lines in sections(log):
        result.append(f"failed: {name}")
        panic = next((index for index, line in enumerate(lines) if PANIC.search(line)), None)
        message = lines[panic : panic + 2] if panic is not None else lines[-2:]
        told = [line for line in lines if TOLD.match(line) and line not in message]
        result += ["  " + line.strip()[:MAX_COLUMNS] for line in message + told[:MAX_TOLD]]
    return result


if __name__ == "__main__":
    print("\n".join(summary(Path(sys.argv[1]).read_text(errors="replace"))))
