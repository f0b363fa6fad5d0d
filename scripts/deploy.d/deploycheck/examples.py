"""Every JSON example of docs/api.md satisfies its schema; those of HTTP calls are compared by a test of src/http/openapi.rs."""

import json
import re

DOCUMENT = "docs/api.md"
MESSAGES = "schemas/messages.schema.json"
# The document of the HTTP API is made by the program.
OPENAPI = "OpenAPI"
LOCAL_FLAG = "schemas/local-flag.schema.json"

# Heading → schema of each example below it. The formats of values are not compared: examples shorten ids and hashes.
SCHEMAS = {
    "Request": [(MESSAGES, "evaluationRequest")] * 2,
    "Attributes": [(MESSAGES, "attributes")],
    "Result: `FEATURE_FLAG_EVALUATED`": [(MESSAGES, "featureFlagEvaluated")],
    "Results of several flags: `FEATURE_FLAGS_EVALUATED`": [(MESSAGES, "featureFlagsEvaluated")],
    "Reply": [(MESSAGES, "reply")],
    "Hint": [(MESSAGES, "hint")],
    "Definition": [(MESSAGES, "definition")],
    "Status of a source": [(MESSAGES, "sourceStatus")],
    "Change event and invalidation": [(MESSAGES, "invalidation"), (MESSAGES, "changeEvent"), (MESSAGES, "killSwitch")],
    "Audit checkpoint: `AUDIT_CHECKPOINT`": [(MESSAGES, "auditCheckpoint")],
    "Redis": [(MESSAGES, "redisValue")],
    "A local flag": [(LOCAL_FLAG, None)],
    "Experiments": [(OPENAPI, "NewExperiment"), (MESSAGES, "conversion")],
    "Exposure events": [(MESSAGES, "exposure")],
    "Layers and a global holdout": [(LOCAL_FLAG, None), (LOCAL_FLAG, None), (LOCAL_FLAG, None)],
    "Results by attributes": [(OPENAPI, None)],
    "Results of an experiment": [(OPENAPI, "ExperimentCounted")],
    "Metrics of SDKs": [(MESSAGES, "clientMetrics")],
    "Health": [(OPENAPI, None)],
}


def blocks(text):
    """Heading, line and content of each block of JSON."""
    heading, lines, number = "", text.split("\n"), 0
    while number < len(lines):
        if match := re.match(r"#+ (.*)", lines[number]):
            heading = match[1]
        if match := re.match(r"```(\w*)$", lines[number]):
            end = lines.index("```", number + 1)
            if match[1] == "json":
                yield heading, number + 2, "\n".join(lines[number + 1 : end])
            number = end
        number += 1


def check(root):
    import jsonschema

    files = {file: json.loads((root / file).read_text()) for file in (MESSAGES, LOCAL_FLAG)}
    seen = {}
    for heading, line, text in blocks((root / DOCUMENT).read_text()):
        number = seen[heading] = seen.get(heading, -1) + 1
        expected = SCHEMAS.get(heading, [])
        if number >= len(expected):
            yield f"{DOCUMENT}:{line}: scripts/deploy.d/deploycheck/examples.py names no schema for this example of {heading!r}"
            continue
        file, name = expected[number]
        try:
            example = json.loads(text)
        except ValueError as error:
            yield f"{DOCUMENT}:{line}: {error}"
            continue
        if file == OPENAPI:
            continue
        # In draft 7 a reference replaces all other keywords of its schema.
        schema = {"definitions": files[file]["definitions"], "allOf": [{"$ref": f"#/definitions/{name}"}]} if name else files[file]
        kind = jsonschema.validators.validator_for(files[file])
        for error in kind(schema).iter_errors(example):
            yield f"{DOCUMENT}:{line}: {error.json_path}: {error.message} (schema {name or file})"
    for heading, expected in SCHEMAS.items():
        if seen.get(heading, -1) + 1 != len(expected):
            yield f"{DOCUMENT}: {heading}: has {seen.get(heading, -1) + 1} examples instead of {len(expected)}"
