"""Calls as services in Python make them: `clients.py URL` prints what `is_enabled` and `batch_evaluate` say."""

import json
import sys

import requests

URL, ENVIRONMENT = sys.argv[1].rstrip("/"), "production"


def is_enabled(flag_name, user_id, default=False):
    response = requests.post(
        f"{URL}/api/v1/feature-flags/evaluate",
        json={"flag_name": flag_name, "user_id": user_id, "environment": ENVIRONMENT},
        timeout=5,
    )
    return response.json().get("enabled", default) if response.status_code == 200 else default


def batch_evaluate(flag_names, user_id, default=False):
    response = requests.post(
        f"{URL}/api/v1/feature-flags/evaluate/batch",
        params={"user_id": user_id, "environment": ENVIRONMENT},
        json=flag_names,
        timeout=5,
    )
    if response.status_code != 200:
        return {}
    return {flag: result.get("enabled", default) for flag, result in response.json().items()}


print(json.dumps({
    "on": is_enabled("on", "user123"),
    "off": is_enabled("off", "user123"),
    "unknown": is_enabled("unknown", "user123", default=True),
    "batch": batch_evaluate(["on", "off", "theme", "unknown"], "user 1&2"),
}))
