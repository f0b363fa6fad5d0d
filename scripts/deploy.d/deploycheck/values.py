"""Every value of the chart is described in its README, has a place in values.schema.json, and is used by a template."""

import json
import re

CHART = "deploy/helm/flagstream"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"


def rows(text):
    """Path, default and description of each value of a values.yaml, whose comments are above their key."""
    found, comment, path, item = [], [], [], None
    for line in text.splitlines():
        stripped, indent = line.strip(), len(line) - len(line.lstrip())
        if stripped.startswith("- "):
            item = indent
        if item is not None and stripped and indent > item:
            continue
        item = indent if stripped.startswith("- ") else None
        if not stripped or stripped.startswith("# ---"):
            comment = []
        elif stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
        elif match := re.match(r"([A-Za-z]\w*):(?: +(.*))?$", stripped):
            key, value = match.groups()
            path = [*path[: indent // 2], key]
            found.append((".".join(path), value, " ".join(comment)))
            comment = []
        else:
            comment = []
    return found


def table(text):
    lines = ["| value | default | meaning |", "|---|---|---|"]
    described = rows(text)
    for number, (path, value, meaning) in enumerate(described):
        below = described[number + 1][0].startswith(f"{path}.") if number + 1 < len(described) else False
        if below and not meaning:
            continue
        default = "" if value is None else f"`{value}`"
        lines.append(f"| `{path}` | {default} | {meaning.replace('|', '&#124;')} |")
    return "\n".join(lines)


def fix(root):
    file = root / CHART / "README.md"
    file.write_text(_with_table(root, file.read_text()))


def _with_table(root, readme):
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table((root / CHART / 'values.yaml').read_text())}\n{END}{after}"


def check(root):
    readme = (root / CHART / "README.md").read_text()
    if readme != _with_table(root, readme):
        yield f"{CHART}/README.md: the table of values is not current; run `scripts/deploy-check --fix values`"
    schema = json.loads((root / CHART / "values.schema.json").read_text())
    templates = "\n".join(file.read_text() for file in sorted((root / CHART / "templates").iterdir()))
    for path, value, meaning in rows((root / CHART / "values.yaml").read_text()):
        # Kubernetes describes what is below a value that is passed on as a whole.
        if value is not None and not meaning and _in_schema(schema, schema, path.split("."), named=True):
            yield f"{CHART}/values.yaml: {path} has no comment"
        # Below a value that is passed on as a whole, the schema does not name members.
        if not _in_schema(schema, schema, path.split(".")):
            yield f"{CHART}/values.schema.json: lacks {path}"
        name = path.split(".")[-1]
        parents = [f".{part}" for part in path.split(".")[:-1]]
        passed_on = any(re.search(rf"toYaml \$?\.?[\w.$]*{re.escape(parent)}\b|with \$?[\w.]*{re.escape(parent)}\b", templates) for parent in parents)
        if not passed_on and not re.search(rf"\.{name}\b|\"{name}\"", templates):
            yield f"{CHART}/values.yaml: no template uses {path}"


def _in_schema(schema, place, path, named=False):
    """Whether the schema allows the value; with `named`, whether it names it."""
    if "$ref" in place:
        place = schema["definitions"][place["$ref"].rsplit("/", 1)[1]]
    if not path:
        return True
    members = place.get("properties")
    if members is None:
        return not named
    return path[0] in members and _in_schema(schema, members[path[0]], path[1:], named)
