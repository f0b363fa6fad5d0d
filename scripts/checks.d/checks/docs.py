"""The checks of `scripts/docs-check`. Each yields one message per difference."""

import re
from collections.abc import Iterator
from pathlib import Path

from checks import limits
from checks.source import tracked, without_code

OPERATIONS = "docs/operations.md"
ARCHITECTURE = "docs/architecture.md"
# Documents that name tests.
WITH_TESTS = (ARCHITECTURE, "docs/faults.md")
FOLDERS = ("src", "crates", "tests", "scripts", "docs", "clients", "examples", "schemas", "migrations", "benches", "benchmarks", "fuzz", "deploy", ".ci")


def main(root: Path, arguments: list[str]) -> int:
    if "--fix" in arguments:
        (root / "docs/limits.md").write_text(limits.document(root))
    checks = (settings, variables, metrics, limits_are_current, paths, tests, the_map, links)
    problems = [problem for check in checks for problem in check(root)]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def read(root: Path, path: str) -> str:
    return (root / path).read_text()


def settings(root: Path) -> Iterator[str]:
    """Every setting of the code has a row in the documents, and every row is a setting."""
    code = set()
    for path in tracked(root, "src/config/*.rs"):
        code |= set(re.findall(r'\bs\("([A-Z_]*)",\s*"([a-z_.]+)"', read(root, path)))
    if not code:
        yield "src/config: found no settings; scripts/checks.d/checks/docs.py has to learn their new form"
    row = re.compile(r"^\| (?:`([A-Z_]+)(?:<NAME>)?`|–) \| `([a-z_.]+)` \|", re.MULTILINE)
    documented = set(row.findall(read(root, OPERATIONS)))
    for variable, path in sorted(code - documented):
        yield f"{OPERATIONS}: the table of settings lacks {variable or path}"
    for variable, path in sorted(documented - code):
        yield f"{OPERATIONS}: {variable or path} is no setting of src/config"


def variables(root: Path) -> Iterator[str]:
    """Every environment variable that a document names occurs in the code."""
    code = "\n".join(read(root, path) for path in tracked(root, "src", "crates", "tests", "clients", "examples", "scripts", "benches", "deploy", "docker-compose.yml") if not path.endswith(".md"))
    for path in tracked(root, "*.md"):
        for number, line in enumerate(read(root, path).split("\n"), 1):
            for name in re.findall(r"\b(?:FLAGSTREAM|UNLEASH|FEATURE_FLAG|SCHEMA_REGISTRY|KAFKA)_[A-Z_]*[A-Z]\b", line):
                group = name.startswith("FLAGSTREAM_KAFKA__CLIENT__")
                if name not in code and not group:
                    yield f"{path}:{number}: no code reads {name}"


def metrics(root: Path) -> Iterator[str]:
    """Every registered metric has a row in the documents, and every row is a metric."""
    code = registered("\n".join(read(root, path) for path in tracked(root, "src/metrics.rs", "src/metrics/*.rs", "crates/*/src/metrics.rs")))
    documented = set(re.findall(r"^\| `flagstream_([a-z_]+)`", read(root, OPERATIONS), re.MULTILINE))
    documented = {re.sub(r"_(total|info)$", "", name) for name in documented}
    for name in sorted(code - documented):
        yield f"{OPERATIONS}: the table of metrics lacks flagstream_{name}"
    for name in sorted(documented - code):
        yield f"{OPERATIONS}: flagstream_{name} is not registered in src/metrics"


def registered(code: str) -> set[str]:
    """Names of the metrics that a source text registers, without `flagstream_` and without the suffix of counters."""
    prefixes = dict(re.findall(r'(\w+)::register\(\s*registry\.sub_registry_with_prefix\("(\w+)"\)', code))
    collectors = {name: owner for owner, name in re.findall(r"struct (\w+) \{[^}]*?:\s*(\w+),?\s*\}", code) if name == "AsOf"}
    names = set()
    parts = re.split(r"^impl (?:\w+ for )?(\w+)[^{]*\{", code, flags=re.MULTILINE)
    for owner, body in zip(parts[1::2], parts[2::2], strict=True):
        owner = collectors.get(owner, owner)
        found = re.findall(r'(?:registry\.register|encode_descriptor)\(\s*"(\w+)"', body)
        prefix = prefixes.get(owner)
        names |= {f"{prefix}_{name}" if prefix else name for name in found}
    return names


def limits_are_current(root: Path) -> Iterator[str]:
    """docs/limits.md is what the constants of the code give."""
    if read(root, "docs/limits.md") != limits.document(root):
        yield "docs/limits.md: is not current; run `scripts/docs-check --fix`"


def codes(root: Path, path: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each code span of a document."""
    for number, line in enumerate(without_code(read(root, path)), 1):
        for span in re.findall(r"`([^`]+)`", line):
            yield number, span


def paths(root: Path) -> Iterator[str]:
    """Every path of the project that a document names exists. docs/architecture.md may leave out `src/` and `.rs`, and in
    `crates/NAME/src` all but the name."""
    for path in tracked(root, "*.md"):
        for number, span in codes(root, path):
            span = span.split(":")[0].rstrip("/") if not re.search(r"[\s<>{}…$*]", span) else ""
            if re.match(rf"({'|'.join(re.escape(folder) for folder in FOLDERS)})/", span):
                is_there = (root / span).exists() or (root / path).parent.joinpath(span).exists()
            elif path == ARCHITECTURE and re.fullmatch(r"[a-z_]+(/[a-z_]+)+(\.rs)?", span):
                is_there = module_exists(root, span)
            else:
                continue
            if not is_there:
                yield f"{path}:{number}: {span} does not exist"


def module_exists(root: Path, name: str) -> bool:
    bases = [root, root / "src", *(root / "crates").glob("*/src")]
    crate, _, rest = name.partition("/")
    places = [base / name for base in bases] + [root / "crates" / crate / "src" / rest]
    return any(place.exists() or place.with_name(f"{place.name}.rs").exists() for place in places)


def tests(root: Path) -> Iterator[str]:
    """Every test that the documents of invariants and faults name exists; `…` stands for the rest of a name."""
    sources = {path: read(root, path) for path in tracked(root, "src/*.rs", "crates/*.rs", "tests/*.rs", "clients/**")
               if path.endswith((".rs", ".py", ".go", ".js"))}
    functions = {name for text in sources.values() for name in re.findall(r"\b(?:fn|def|func) (\w+)", text)}
    modules = {part.removesuffix(".rs") for path in sources for part in path.split("/")}
    modules |= {name for text in sources.values() for name in re.findall(r"\bmod (\w+)", text)}
    for path in WITH_TESTS:
        for number, span in codes(root, path):
            is_path = re.fullmatch(r"…?(::)?[a-z_0-9]+(::[a-z_0-9…]+)+", span)
            is_name = re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+){4,}_?…?", span)
            if not (is_path or is_name) or span.startswith("flagstream_"):
                continue
            name = span.split("::")[-1]
            start = name.removesuffix("…")
            known = any(f.startswith(start) for f in functions) if name.endswith("…") else start in functions | modules
            if start and not known:
                yield f"{path}:{number}: there is no test or module {span}"


def the_map(root: Path) -> Iterator[str]:
    """The map in docs/architecture.md names every folder directly below `src` and every crate."""
    spans = {span.rstrip("/") for _, span in codes(root, ARCHITECTURE)}
    folders = {f"src/{path.split('/')[1]}" for path in tracked(root, "src/*/*.rs", "src/*/**/*.rs")}
    folders |= {"/".join(path.split("/")[:2]) for path in tracked(root, "crates/*/Cargo.toml")}
    for folder in sorted(folders):
        if folder not in spans:
            yield f"{ARCHITECTURE}: the map lacks {folder}"


def links(root: Path) -> Iterator[str]:
    """Relative links of Markdown files lead to files that exist, and to headings that they have."""
    anchors: dict[Path, set[str]] = {}
    for path in tracked(root, "*.md"):
        for number, line in enumerate(without_code(read(root, path)), 1):
            for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", line)):
                if re.match(r"[a-z]+:", target):
                    continue
                name, _, anchor = target.partition("#")
                file = (root / path).parent / name if name else root / path
                if not file.exists():
                    yield f"{path}:{number}: {target}: there is no such file"
                elif anchor and file.suffix == ".md":
                    file = file.resolve()
                    if file not in anchors:
                        anchors[file] = headings(file.read_text())
                    if anchor not in anchors[file]:
                        yield f"{path}:{number}: {target}: there is no such heading"


def headings(text: str) -> set[str]:
    """The anchors of a Markdown text, as GitHub makes them from its headings."""
    found: set[str] = set()
    for line in without_code(text):
        match = re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
        if match:
            title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match.group(1)).lower()
            anchor = re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title))
            number = 0
            while (anchor if not number else f"{anchor}-{number}") in found:
                number += 1
            found.add(anchor if not number else f"{anchor}-{number}")
    return found
