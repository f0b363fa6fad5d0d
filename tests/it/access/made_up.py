"""Runs schemathesis against every route of the document: `made_up.py URL TOKEN EXAMPLES`.

Left out are streams, which do not end: whatever answers with `text/event-stream`.
"""

import sys

import requests
from schemathesis.cli import schemathesis

URL, TOKEN, EXAMPLES = sys.argv[1:]
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method"
)

document = requests.get(f"{URL}/openapi.json", timeout=10).json()
methods = ("get", "post", "put", "delete", "patch", "head")
operations = [
    (path, method, operation)
    for path, item in document["paths"].items()
    for method, operation in item.items()
    if method in methods
]
streams = [
    path
    for path, _, operation in operations
    if any("text/event-stream" in answer.get("content", {}) for answer in operation["responses"].values())
]
tried = [path for path, _, _ in operations if path not in streams]
assert len(tried) > 10, f"the document has hardly any routes: {tried}"
print(f"{len(tried)} operations, {len(streams)} streams left out")

arguments = ["run", f"{URL}/openapi.json", "--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", "1"]
arguments += ["--phases", "examples,coverage,fuzzing", "--header", f"Authorization: Bearer {TOKEN}"]
arguments += ["--request-timeout", "10", "--no-color", "--generation-database", "none", "--suppress-health-check", "all"]
for path in streams:
    arguments += ["--exclude-path", path]
sys.argv = ["schemathesis", *arguments]
sys.exit(schemathesis())
