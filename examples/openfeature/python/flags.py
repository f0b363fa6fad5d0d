"""OpenFeature in Python: pip install openfeature-sdk openfeature-provider-ofrep. Nothing of flagstream is needed."""

import os

from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

url = os.environ.get("FLAGSTREAM_URL", "http://localhost:8082")
# An API token would be one more header: {"Authorization": "Bearer fst_…"}.
api.set_provider(OFREPProvider(url, headers_factory=lambda: {"Flags-Environment": "production"}))
client = api.get_client()

user = EvaluationContext("user-1", {"subscription_tier": "premium"})
print("premium", client.get_boolean_value("premium", False, user))
print("theme", client.get_string_value("theme", "light", user))
print("max-retries", client.get_integer_value("max-retries", 3, user))
print("first region", client.get_object_value("config", {"regions": ["none"]}, user)["regions"][0])
print("unknown", client.get_boolean_details("unknown", True, user).error_code.value)
api.shutdown()
