"""The image's build context has what Cargo needs; the image has no shell and no root; files of Connect and workflows have their form."""

import fnmatch
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

CONNECT = "deploy/connect"
WORKFLOW = ".github/workflows/release.yml"


def check(root):
    yield from _context(root)
    yield from _dockerfile((root / "Dockerfile").read_text())
    yield from _connect(root)
    yield from _workflow(root)


def _context(root):
    """`cargo metadata` works in a copy of exactly the files that .dockerignore lets through."""
    rules = [line.strip() for line in (root / ".dockerignore").read_text().splitlines() if line.strip() and not line.startswith("#")]
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    if rules[0] != "*":
        yield ".dockerignore: expected `*` first, and then what the build needs"
        return
    files = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            if any(file == rule or file.startswith(f"{rule}/") or fnmatch.fnmatch(file, rule) for rule in kept):
                target = Path(folder) / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / file, target, follow_symlinks=False)
        argv = ["cargo", "metadata", "--offline", "--locked", "--format-version", "1", "--no-deps"]
        answer = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
        if answer.returncode:
            yield f".dockerignore: the build context lacks something: {answer.stderr.strip()}"
        for source in sorted((root / "src").rglob("*.rs")):
            text = re.split(r"#\[cfg\(test\)\]", source.read_text())[0]
            if source.name == "tests.rs" or "tests" in source.parts:
                continue
            for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', text):
                place = (source.parent / name).resolve().relative_to(root.resolve())
                if not (Path(folder) / place).exists():
                    yield f".dockerignore: the build context lacks {place}, which {source.relative_to(root)} includes"


def _dockerfile(text):
    last = text[text.rindex("\nFROM ") :]
    if "distroless" not in last.splitlines()[1]:
        yield "Dockerfile: the last stage is not distroless"
    if not re.search(r"^USER (?!0)\d+:\d+$", last, re.MULTILINE):
        yield "Dockerfile: expected a numeric user other than root, which Kubernetes can check"
    for line in re.findall(r"^(?:HEALTHCHECK .*CMD|ENTRYPOINT|CMD) (.*)$", last, re.MULTILINE):
        if not line.startswith("["):
            yield f"Dockerfile: the image has no shell for: {line}"
    if "RUN" in re.findall(r"^(\w+)", last, re.MULTILINE):
        yield "Dockerfile: the last stage runs a command"


def _connect(root):
    readme = (root / CONNECT / "README.md").read_text()
    for file in sorted((root / CONNECT).iterdir()):
        if file.name != "README.md" and f"`{file.name}`" not in readme:
            yield f"{CONNECT}/README.md: does not name {file.name}"
        if file.suffix == ".json":
            connector = json.loads(file.read_text())
            config = connector["config"]
            if set(connector) != {"name", "config"} or not config.get("connector.class") or not all(isinstance(value, str) for value in config.values()):
                yield f"{CONNECT}/{file.name}: expected a name and a config of texts with connector.class"
            if config.get("topics") != "feature-flag-events":
                yield f"{CONNECT}/{file.name}: expected the topic feature-flag-events"
    worker = (root / CONNECT / "worker.properties").read_text()
    if "consumer.isolation.level=read_committed" not in worker:
        yield f"{CONNECT}/worker.properties: reads records of aborted transactions"


def _workflow(root):
    import yaml

    workflow = yaml.safe_load((root / WORKFLOW).read_text())
    for name, job in workflow["jobs"].items():
        needs = job.get("needs", [])
        for needed in [needs] if isinstance(needs, str) else needs:
            if needed not in workflow["jobs"]:
                yield f"{WORKFLOW}: {name} needs {needed}, which does not exist"
        for step in job["steps"]:
            if ("run" in step) == ("uses" in step):
                yield f"{WORKFLOW}: {name}: a step either runs or uses something"
            script = subprocess.run(["bash", "-n"], input=re.sub(r"\$\{\{.*?\}\}", "x", step.get("run", "")), capture_output=True, text=True, check=False)
            if script.returncode:
                yield f"{WORKFLOW}: {name}: {script.stderr.strip()}"
