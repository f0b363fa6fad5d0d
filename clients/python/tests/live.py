"""A real service: its addresses, and calls that change flags."""

import json
import os
import socket
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


# No test that asks a real service is about these limits: a busy machine may take longer.
PATIENT = {"timeout": LIMIT_S, "attempt_timeout": LIMIT_S}


def call(url, body=None, expected=(200,)):
    """Posts a body, or gets the URL without one; the answer in JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    assert expected is None or status in expected, (url, status, text)
    return json.loads(text)


def turn(url, flag, action):
    """Kills or restores a flag; the version of the change."""
    path = f"{url}/api/v1/feature-flags/{flag}/{action}?environment=production"
    # 202: announced, and in force on this instance a moment later.
    return call(path, {"reason": "a test"}, expected=(200, 202))["version"]


def control(command):
    """Has the test around this process stop or start a service, and waits until it is done."""
    host, port = variable("FLAGSTREAM_TEST_CONTROL").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{command}\n".encode())
        assert connection.makefile().readline() == "done\n", command
