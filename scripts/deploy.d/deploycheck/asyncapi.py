"""The official parser of AsyncAPI accepts docs/asyncapi.json, which a test of the program compares with its own document."""

import json
import os
import subprocess

from . import tools

DOCUMENT = "docs/asyncapi.json"

PROGRAM = r"""
const { Parser } = require('@asyncapi/parser');
const { readFileSync } = require('fs');
new Parser().parse(readFileSync(process.argv[1], 'utf8')).then(({ document, diagnostics }) => {
  const errors = diagnostics.filter((one) => one.severity === 0).map((one) => `${one.path.join('.')}: ${one.message}`);
  const counted = document && {
    version: document.version(),
    channels: document.allChannels().length,
    operations: document.allOperations().length,
    messages: document.allMessages().length,
    schemas: document.allSchemas().length,
  };
  console.log(JSON.stringify({ errors, counted }));
});
"""


def check(root):
    environment = {**os.environ, "NODE_PATH": str(tools.node_modules())}
    argv = ["node", "-e", PROGRAM, str(root / DOCUMENT)]
    answer = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        yield f"{DOCUMENT}: {answer.stderr}"
        return
    found = json.loads(answer.stdout)
    yield from (f"{DOCUMENT}: {error}" for error in found["errors"])
    counted = found["counted"]
    if not counted:
        yield f"{DOCUMENT}: the parser has no document"
    elif counted["version"] != "3.1.0" or counted["channels"] < 10 or counted["messages"] < 12 or counted["operations"] < 10:
        yield f"{DOCUMENT}: the parser found {counted}"
