"""Every metric that rules, dashboard, chart and documents name exists, with the labels that they use."""

import json
import re

from . import dashboard, rules

OPERATIONS = "docs/operations.md"
SUFFIXES = ("_bucket", "_count", "_sum")
# Labels that Prometheus or a rule adds.
ADDED = {"job", "namespace", "instance", "le", "alertname", "alertstate", "severity", "__name__"}


def documented(root):
    """Metrics of the table in docs/operations.md, with their labels. `scripts/docs-check` compares the table with the code."""
    found = {}
    for name, labels in re.findall(r"^\| `(flagstream_[a-z_]+)` \|([^|]*)\|", (root / OPERATIONS).read_text(), re.MULTILINE):
        outside = re.sub(r"\([^)]*\)", "", labels)
        found[name] = set(re.findall(r"`([a-z_]+)`", outside))
    return found


def check(root):
    metrics = documented(root)
    texts = {
        rules.RULES: [rule["expr"] for group in _yaml(root / rules.RULES)["groups"] for rule in group["rules"]],
        rules.TESTS: [series["series"] for test in _yaml(root / rules.TESTS)["tests"] for series in test["input_series"]],
        dashboard.JSON: list(_expressions(json.loads((root / dashboard.JSON).read_text()))),
        "deploy/helm/flagstream/templates/scaledobject.yaml": [(root / "deploy/helm/flagstream/templates/scaledobject.yaml").read_text()],
    }
    used = set()
    for file, expressions in texts.items():
        for expression in expressions:
            for name, selector in re.findall(r"\b(flagstream_[a-z_]+)\b(?:\{([^}]*)\})?", expression):
                base = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.removesuffix(suffix) in metrics), name)
                if base not in metrics:
                    yield f"{file}: there is no metric {name}"
                    continue
                used.add(base)
                labels = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', selector))
                for label in sorted(labels - metrics[base] - ADDED):
                    yield f"{file}: {name} has no label {label}"
    for name in sorted(metrics.keys() - used):
        yield f"{dashboard.JSON}: shows no metric {name}"
    for file in ("docs/alerts.md", *(str(path.relative_to(root)) for path in sorted((root / "docs/guides").glob("*.md")))):
        for name in set(re.findall(r"`(flagstream_[a-z_]+)(?:\{[^}]*\})?`", (root / file).read_text())):
            if name not in metrics and not any(name.removesuffix(suffix) in metrics for suffix in SUFFIXES):
                yield f"{file}: there is no metric {name}"


def _yaml(path):
    import yaml

    return yaml.safe_load(path.read_text())


def _expressions(panel):
    """The PromQL expressions of a dashboard, at any depth."""
    if isinstance(panel, dict):
        for key, value in panel.items():
            if key in ("expr", "definition", "query") and isinstance(value, str):
                yield value
            else:
                yield from _expressions(value)
    elif isinstance(panel, list):
        for item in panel:
            yield from _expressions(item)
