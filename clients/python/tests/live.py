"""A real service: its addresses, and calls that change flags."""

import json
import os
import time
import urllib.error
import urllib.request

import pytest

LIMIT_S = 30


def wait_until(condition, what="the condition"):
    deadline = time.monotonic() + LIMIT_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} does not hold within {LIMIT_S} s"
        time.sleep(0.01)
    return result


def variable(name):
    if name not in os.environ:
        pytest.skip(f"{name} is not set")
    return os.environ[name]


def topic(name, default):
    return os.environ.get(f"FLAGSTREAM_TOPICS__{name}", default)


def kafka_options(**more):
    """Options of a client over Kafka for the service of the tests."""
    return {
        "bootstrap_servers": variable("KAFKA_BOOTSTRAP_SERVERS"),
        "environment": "production",
        "reply_topic": os.environ.get("REPLY_TOPIC", "feature-flag-replies"),
        "requests_topic": topic("REQUESTS", "feature-flag-evaluation-requests"),
        "conversions_topic": topic("CONVERSIONS", "feature-flag-conversions"),
        "updates_topic": topic("UPDATES", "feature-flag-updates"),
        "timeout": LIMIT_S,
        **more,
    }


def call(url, body=None, expected=200):
    """Posts a body, or gets the URL without one; the answer in JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    assert expected in (status, None), (url, status, text)
    return json.loads(text)


def turn(url, flag, action):
    """Kills or restores a flag; the version of the change."""
    return call(f"{url}/api/v1/feature-flags/{flag}/{action}?environment=production", {"reason": "a test"})["version"]
