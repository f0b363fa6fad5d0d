"""Generates docs/limits.md from the constants of the code."""

import re
from pathlib import Path

from checks.source import Constant, constants, tracked

# Names of constants that are limits: bounds, sizes, times.
LIMIT = re.compile(
    r"MAX|MIN(?!UTE)|LIMIT|TIMEOUT|DEADLINE|TTL|WINDOW|PER_SECOND|PER_TRANSACTION|PER_STATEMENT|INTERVAL|BACKOFF|AT_ONCE|BUFFER"
    r"|(BYTES|COUNT|RECORDS|LEVELS|CHARS|ROWS|DAYS|HOURS|MEMBERS|KEYS|VALUES|FLAGS|SEGMENTS|CALLS|LINES|CHANGES)$"
)
# Folders whose constants are no limits of the service.
EXCLUDED = ("src/bench/", "src/cli/", "src/dev/", "crates/evaluation/src/local/reference", "crates/bench/", "crates/evaluation/src/local/reference")

HEAD = """# Limits

Every queue, batch, size and wait of flagstream has a named limit. This page lists the constants of the code; limits that are
settings are in [operations.md](operations.md#settings). [api.md](api.md#limits) lists the limits that callers encounter.

This page is generated: change the constant or its comment, then run `scripts/docs-check --fix`.
"""


def value_text(constant: Constant) -> str:
    """The value for people: `8 MiB`, `1,000`, `30 s`; an expression that depends on other constants as code."""
    if constant.type == "Duration":
        match = re.fullmatch(r"(?:\w+::)*Duration::from_(secs|millis|micros|mins|hours)\(([^()]+|\([^()]*\))+\)", constant.value)
        inner = constant.value[constant.value.index("(") + 1 : -1] if match else ""
        number = evaluate(inner)
        if match and number is not None:
            return duration(number * {"micros": 1, "millis": 1_000, "secs": 1_000_000, "mins": 60_000_000, "hours": 3_600_000_000}[match.group(1)])
        return f"`{constant.value}`"
    number = evaluate(constant.value)
    if number is None:
        return f"`{constant.value}`"
    if isinstance(number, float):
        return f"{number:g}"
    if "BYTES" in constant.name and number >= 1024 and number % 1024 == 0:
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if number % size == 0:
                return f"{number // size:,} {unit}"
    return f"{number:,}" + (" bytes" if "BYTES" in constant.name else "")


def evaluate(expression: str) -> int | float | None:
    """The value of an arithmetic expression without names; `None` for any other."""
    plain = re.sub(r"(?<=\d)_(?=\d)", "", expression)
    plain = re.sub(r"(?<=\d)(usize|u128|u64|u32|u16|u8|i64|i32|i16|f64)\b", "", plain)
    if not re.fullmatch(r"[\d.()\s*+<-]+", plain) or "**" in plain:
        return None
    try:
        return eval(plain, {"__builtins__": {}})  # noqa: S307  (digits and operators only)
    except (SyntaxError, TypeError, ValueError):
        return None


def duration(micros: int) -> str:
    units = (("days", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000))
    for unit, size in units:
        if micros >= size and micros % size == 0 and not (unit in ("min", "h", "days") and micros // size < 2):
            return f"{micros // size:,} {unit}"
    return f"{micros:,} µs"


def module(path: str) -> str:
    """The top-level module or crate of a file: `audit`, `crates/kafka`."""
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "crates" else parts[1].removesuffix(".rs")


def document(root: Path) -> str:
    """The text of docs/limits.md."""
    sections: dict[str, list[str]] = {}
    for path in tracked(root, "src/*.rs", "crates/*.rs"):
        is_test = re.search(r"(^|/)(tests?|[a-z_]+_tests)(/|\.rs$)", path)
        if is_test or path.startswith(EXCLUDED) or not re.match(r"(src|crates/\w+/src)/", path):
            continue
        for constant in constants((root / path).read_text()):
            if LIMIT.search(constant.name):
                row = f"| `{constant.name}` | {value_text(constant)} | {meaning(constant.doc)} | `{path}` |"
                sections.setdefault(module(path), []).append(row)
    parts = [HEAD]
    for name, rows in sorted(sections.items()):
        table = "\n".join(["| limit | value | meaning | file |", "|---|---|---|---|", *rows])
        parts.append(f"## {name}\n\n{table}\n")
    return "\n".join(parts)


def meaning(doc: str) -> str:
    """A doc comment as a table cell: links to items become code."""
    return re.sub(r"\[(`[^`]+`)\](\([^)]*\))?", r"\1", doc).replace("|", "\\|")
