"""Runs schemathesis against every route of the document: `made_up.py URL TOKEN EXAMPLES`.

Left out are streams, which do not end: whatever answers with `text/event-stream`.
"""

import sys
from collections.abc import Mapping

import requests
import schemathesis
from schemathesis.cli import schemathesis as command_line

URL, TOKEN, EXAMPLES = sys.argv[1:]
CHECKS = (
    "never_fails,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method"
)
# What a made-up version or environment is answered with, and many replays at once, as the contract says.
NOT_HERE = (
    "is not in force on this instance yet",
    "are not loaded on this instance",
    "is not served",
    "too many replays run on this instance",
)
VERSIONS = ("min_version", "if-flags-version")


@schemathesis.check
def never_fails(_context, response, _case):
    status, text = response.status_code, response.text
    waits = status == 503 and "retry-after" in response.headers and any(reason in text for reason in NOT_HERE)
    assert status < 500 or waits, f"{status}: {text}"


@schemathesis.hook
def before_call(_context, case, _kwargs):
    """A version that is not there yet is waited for: once is enough, and other tests do it."""
    for given in (case.query, case.headers, case.body):
        if isinstance(given, Mapping):
            for name in [name for name in given if str(name).lower() in VERSIONS and is_version(given[name])]:
                given[name] = type(given[name])(0)


def is_version(value):
    return not isinstance(value, bool) and str(value).isdecimal()


def main():
    document = requests.get(f"{URL}/openapi.json", timeout=10).json()
    methods = ("get", "post", "put", "delete", "patch", "head")
    operations = [
        (path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in methods
    ]
    streams = {path for path, operation in operations if is_stream(operation)}
    tried = [path for path, _ in operations if path not in streams]
    assert len(tried) > 10, f"the document has hardly any routes: {tried}"
    print(f"{len(tried)} operations, without the streams {sorted(streams)}", flush=True)

    arguments = ["run", f"{URL}/openapi.json", "--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", "1"]
    arguments += ["--phases", "examples,coverage,fuzzing", "--header", f"Authorization: Bearer {TOKEN}"]
    arguments += ["--request-timeout", "10", "--no-color", "--warnings", "off"]
    arguments += ["--generation-database", "none", "--suppress-health-check", "all"]
    for path in streams:
        arguments += ["--exclude-path", path]
    sys.argv = ["schemathesis", *arguments]
    sys.exit(command_line())


def is_stream(operation):
    return any("text/event-stream" in answer.get("content", {}) for answer in operation["responses"].values())


main()
