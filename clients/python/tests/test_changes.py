"""Invalidation, by a real service: a flag is killed, and no answer from before is given any more."""

import json
import os
import time
import urllib.request

import pytest

CHANGED_WITHIN_S = 30


def turn(url, flag, action):
    request = urllib.request.Request(
        f"{url}/api/v1/feature-flags/{flag}/{action}?environment=production",
        json.dumps({"reason": "a test"}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["version"]


def wait_until(condition):
    deadline = time.monotonic() + CHANGED_WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_kill(client, url, flag):
    """The cache would keep for 300 s what it has."""
    def answer():
        return client.is_enabled(flag, "u")

    wait_until(answer)
    event = client.evaluate(flag, "u", False)
    assert client.evaluate(flag, "u", False) == event, "kept"
    version = turn(url, flag, "kill")
    wait_until(lambda: not answer())
    killed = client.evaluate(flag, "u", False)
    assert killed.reason == "DISABLED" and killed.flags_version >= version
    restored = turn(url, flag, "restore")
    wait_until(answer)
    assert client.evaluate(flag, "u", False, min_version=restored).value is True


def test_the_stream_of_changes(make, url):
    client = make(url, "production", follow_changes=True)
    client.wait_until_following(10)
    assert client.is_following
    check_kill(client, url, "killed-in-python")


def test_the_updates_topic(make, url):
    pytest.importorskip("confluent_kafka")
    from flagstream_client.kafka import KafkaInvalidations

    deserialize = None
    if registry := os.environ.get("SCHEMA_REGISTRY_URL"):
        from confluent_kafka.schema_registry import SchemaRegistryClient
        from confluent_kafka.schema_registry.avro import AvroDeserializer

        deserialize = AvroDeserializer(SchemaRegistryClient({"url": registry}))
    client = make(url, "production", cache=True)
    kafka = {"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"]}
    with KafkaInvalidations(client, kafka, os.environ["FLAGSTREAM_TOPICS__UPDATES"], deserialize):
        check_kill(client, url, "killed-in-python")
