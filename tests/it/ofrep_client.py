"""What the official provider for Python says: `ofrep_client.py URL` prints, for each call, the details as JSON."""

import json
import sys

from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

api.set_provider(OFREPProvider(sys.argv[1], headers_factory=lambda: {"Flags-Environment": "production"}))
client = api.get_client()
context = EvaluationContext("user-1", {"region": "us-west"})
said = {
    "boolean": client.get_boolean_details("on", False, context),
    "targeted": client.get_boolean_details("west", False, context),
    "missed": client.get_boolean_details("west", True, EvaluationContext("user-1")),
    "off": client.get_boolean_details("off", True, context),
    "string": client.get_string_details("theme", "light", context),
    "integer": client.get_integer_details("max-retries", 3, context),
    "float": client.get_float_details("request-timeout", 5.5, context),
    "object": client.get_object_details("feature-config", {}, context),
    "split": client.get_string_details("split", "none", context),
    "bare": client.get_string_details("bare", "none", context),
    "offVariant": client.get_string_details("off-variant", "mine", context),
    "unknown": client.get_boolean_details("nobody-made-it", True, context),
    "mismatch": client.get_integer_details("theme", 7, context),
}
print(json.dumps({
    name: {"value": d.value, "variant": d.variant, "reason": d.reason, "errorCode": d.error_code,
           "flagMetadata": dict(d.flag_metadata)}
    for name, d in said.items()
}))
