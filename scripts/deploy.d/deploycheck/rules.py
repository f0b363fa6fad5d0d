"""promtool checks the alerts and runs their tests; each alert fires and clears there, and has a section in docs/alerts.md."""

import re
import subprocess

from . import tools

RULES = "deploy/helm/flagstream/files/flagstream.rules.yaml"
TESTS = "deploy/prometheus/flagstream.rules.test.yaml"
RUNBOOK = "docs/alerts.md"


def check(root):
    import yaml

    promtool = tools.promtool()
    for argv in (["check", "rules", RULES], ["test", "rules", TESTS]):
        answer = subprocess.run([promtool, *argv], cwd=root, capture_output=True, text=True, check=False)
        if answer.returncode:
            yield f"promtool {' '.join(argv)}: {answer.stdout}{answer.stderr}"
    rules = yaml.safe_load((root / RULES).read_text())
    alerts = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}
    yield from _tested(alerts, yaml.safe_load((root / TESTS).read_text()))
    sections = set(re.findall(r"^### (Flagstream\w+)$", (root / RUNBOOK).read_text(), re.MULTILINE))
    for name in sorted(alerts.keys() ^ sections):
        yield f"{RUNBOOK}: {'lacks a section for' if name in alerts else 'has a section for an unknown alert:'} {name}"
    for name, rule in alerts.items():
        if rule["annotations"].get("runbook_url") != f"{RUNBOOK}#{name.lower()}":
            yield f"{RULES}: {name}: expected the runbook_url {RUNBOOK}#{name.lower()}"
        if not {"summary", "description"} <= rule["annotations"].keys() or rule["labels"].get("severity") not in ("critical", "warning"):
            yield f"{RULES}: {name}: needs a summary, a description and a severity (critical or warning)"


def _tested(alerts, tests):
    """Each alert has a test in which it fires, and is quiet at a later time."""
    covered = set()
    for test in tests["tests"]:
        fired = set()
        for case in test.get("promql_expr_test", []):
            name = re.search(r'alertname="(\w+)"', case["expr"])[1]
            if case["exp_samples"]:
                fired.add(name)
            elif name in fired:
                covered.add(name)
    for name in sorted(alerts.keys() - covered):
        yield f"{TESTS}: {name}: has no test in which it fires and then clears"
