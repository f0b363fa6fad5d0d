"""The documentation site builds without warnings, its links and anchors exist, and its diagrams are current."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from . import tools

OPERATIONS = "docs/operations.md"
# Files that documents link to without being documents.
LINKED = ("LICENSE-MIT", "LICENSE-APACHE")
DIAGRAMS = "docs/images"


def tracked(root, *patterns):
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    return subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


def build(root, target):
    """Builds the site in `target`; returns the problems."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        _stage(root, source)
        environment = {**os.environ, "PYTHONPATH": str(tools.python_path()), "PYTHONDONTWRITEBYTECODE": "1",
                       "FLAGSTREAM_SITE_SOURCE": str(source), "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
        argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", root / "mkdocs.yml", "--site-dir", target]
        answer = subprocess.run(list(map(str, argv)), cwd=root, env=environment, capture_output=True, text=True, check=False)
    return [] if answer.returncode == 0 else [f"mkdocs: {answer.stdout}{answer.stderr}"]


def _stage(root, source):
    """Copies the documents with the same paths, so that links between folders stay valid."""
    for path in tracked(root, "*.md", "docs/*.svg", "docs/*.png", "docs/asyncapi.json", *LINKED):
        if (root / path).exists():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path, source / path)
    # Folders and other files of the repository are not part of the site.
    for path in sorted(source.rglob("*.md")):
        path.write_text(_without_files(path, source))
    reference = source / "docs" / "reference"
    reference.mkdir(exist_ok=True)
    operations = (root / OPERATIONS).read_text()
    reference.joinpath("settings.md").write_text(_page(operations, "Settings", "Every setting, as `flagstream config table` prints them."))
    reference.joinpath("metrics.md").write_text(_page(operations, "Metrics", "Every metric that an instance exports."))


def _page(operations, heading, introduction):
    """A page with one section of docs/operations.md, whose table a test compares with the code."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## )", operations, re.MULTILINE | re.DOTALL)[1]
    section = re.sub(r"\]\((?!https?:)([^)#\s]+\.md)", r"](../\1", section)
    section = re.sub(r"\]\(#", "](../operations.md#", section)
    return f"# {heading}\n\n{introduction}\n{section}"


def _without_files(path, source):
    """The text of a document; links to files that the site does not have become their text."""

    def replace(match):
        target = match[2].split("#")[0]
        if re.match(r"[a-z]+:", target) or not target or (path.parent / target).is_file():
            return match[0]
        return match[1]

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", replace, path.read_text())


def fix(root):
    subprocess.run([sys.executable, root / DIAGRAMS / "diagrams.py"], check=True)


def check(root):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, root / DIAGRAMS / "diagrams.py", folder], check=True)
        for made in sorted(Path(folder).iterdir()):
            if not (root / DIAGRAMS / made.name).exists() or made.read_text() != (root / DIAGRAMS / made.name).read_text():
                yield f"{DIAGRAMS}/{made.name}: is not what diagrams.py makes; run `scripts/deploy-check --fix site`"
    with tempfile.TemporaryDirectory() as folder:
        problems = build(root, Path(folder))
        yield from problems
        if not problems:
            yield from _links(Path(folder))


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.targets, self.anchors = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        for name in ("href", "src"):
            if values.get(name):
                self.targets.add(values[name])


def _links(site):
    """Every relative link and image of the built pages exists, with its anchor; nothing is loaded from another host."""
    pages = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    if len(pages) < 20 or not (site / "search" / "search_index.json").exists():
        yield f"the site has {len(pages)} pages, and its search index is {'there' if (site / 'search').exists() else 'missing'}"
    for path, page in pages.items():
        # The page for missing addresses has absolute links.
        if path.name == "404.html":
            continue
        name = path.relative_to(site)
        for target in sorted(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            place = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            place = place / "index.html" if place.is_dir() else place
            if not place.exists():
                yield f"{name}: {target}: there is no such page"
            elif parts.fragment and place in pages and unquote(parts.fragment) not in pages[place].anchors:
                yield f"{name}: {target}: there is no such anchor"
