"""The committed dashboard is what its script makes with Grafana's foundation SDK."""

import json
import re
import subprocess
import tempfile

from . import tools

SCRIPT = "deploy/grafana/dashboard.py"
JSON = "deploy/helm/flagstream/files/flagstream.dashboard.json"


def made(root):
    answer = tools.python(SCRIPT, cwd=root)
    if answer.returncode:
        raise RuntimeError(answer.stderr)
    return answer.stdout


def fix(root):
    (root / JSON).write_text(made(root))


def check(root):
    try:
        text = made(root)
    except RuntimeError as error:
        yield f"{SCRIPT}: {error}"
        return
    if text != (root / JSON).read_text():
        yield f"{JSON}: is not what {SCRIPT} makes; run `scripts/deploy-check --fix dashboard`"
    board = json.loads(text)
    panels = _panels(board)
    ids = [panel["id"] for panel in panels if "id" in panel]
    if len(ids) != len(set(ids)):
        yield f"{JSON}: two panels have one id"
    for panel in panels:
        if panel["type"] != "row" and not panel.get("description"):
            yield f"{JSON}: the panel {panel['title']!r} has no description"
    yield from _readable(board)


def _readable(board):
    """promtool parses every expression, as a rule of its own."""
    queries = [query["expr"] for panel in _panels(board) for query in panel.get("targets", [])]
    rules = []
    for number, expression in enumerate(queries):
        expression = expression.replace("$__rate_interval", "5m")
        rules.append({"record": f"dashboard:query{number}", "expr": re.sub(r"\$\w+", ".*", expression)})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
        file.flush()
        answer = subprocess.run([tools.promtool(), "check", "rules", file.name], capture_output=True, text=True, check=False)
    if answer.returncode or not rules:
        yield f"{JSON}: {answer.stdout}{answer.stderr}"


def _panels(board):
    return [panel for row in board["panels"] for panel in (row, *row.get("panels", []))]
