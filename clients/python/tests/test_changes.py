"""Invalidation, by a real service: a flag is killed, and no answer from before is given any more."""

import os

import pytest
from live import PATIENT, kafka_options, turn, variable, wait_until

FLAG = "killed-in-python"


def check_kill(client, url, flag):
    """The cache would keep for 300 s what it has."""
    def answer():
        return client.is_enabled(flag, "u")

    heard = []
    client.on_change(lambda change: heard.append(change.flag_name))
    wait_until(answer)
    event = client.evaluate(flag, "u", False)
    assert client.evaluate(flag, "u", False) == event, "cached"
    version = turn(url, flag, "kill")
    wait_until(lambda: not answer())
    killed = client.evaluate(flag, "u", False)
    assert killed.reason == "DISABLED" and killed.killed and killed.flags_version >= version
    restored = turn(url, flag, "restore")
    wait_until(answer)
    assert client.evaluate(flag, "u", False, min_version=restored).value is True
    wait_until(lambda: heard.count(flag) == 2, "both changes are reported")


def test_the_stream_of_changes(make, url):
    client = make(url, "production", follow_changes=True, **PATIENT)
    client.wait_until_following(10)
    assert client.is_following
    check_kill(client, url, FLAG)


def test_the_updates_topic(make, url):
    pytest.importorskip("confluent_kafka")
    from flagstream_client.kafka import KafkaInvalidations

    deserialize = None
    if registry := os.environ.get("SCHEMA_REGISTRY_URL"):
        from confluent_kafka.schema_registry import SchemaRegistryClient
        from confluent_kafka.schema_registry.avro import AvroDeserializer

        deserialize = AvroDeserializer(SchemaRegistryClient({"url": registry}))
    client = make(url, "production", cache=True, **PATIENT)
    options = kafka_options()
    with KafkaInvalidations(client, {"bootstrap.servers": options["bootstrap_servers"]}, options["updates_topic"], deserialize):
        check_kill(client, url, FLAG)


def test_the_updates_topic_invalidates_a_client_over_kafka(make_kafka, url):
    more = {}
    if registry := os.environ.get("SCHEMA_REGISTRY_URL"):
        from flagstream_client.kafka.avro import AvroFormat

        more["format"] = AvroFormat(registry)
    client = make_kafka(**kafka_options(follow_changes=True, **more))
    client.wait_until_following(30)
    check_kill(client, url, FLAG)


@pytest.mark.json_only
def test_the_updates_topic_invalidates_memory_over_redis(make, url):
    from flagstream_client.kafka import KafkaInvalidations

    client = make(url, "production", cache=True, redis=variable("CLIENT_REDIS_URL"), **PATIENT)
    options = kafka_options()
    with KafkaInvalidations(client, {"bootstrap.servers": options["bootstrap_servers"]}, options["updates_topic"]):
        wait_until(lambda: client.is_enabled(FLAG, "redis-user"))
        assert client.is_enabled(FLAG, "redis-user")
        turn(url, FLAG, "kill")
        wait_until(lambda: not client.is_enabled(FLAG, "redis-user"))
        turn(url, FLAG, "restore")
        wait_until(lambda: client.is_enabled(FLAG, "redis-user"))
