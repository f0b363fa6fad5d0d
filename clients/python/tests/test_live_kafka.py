"""Request-reply through a real Kafka, with a real service."""

import asyncio
import json
import os
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition
from conftest import VECTORS
from flagstream_client import FlagstreamError
from flagstream_client.kafka import KafkaFeatureFlagClient
from flagstream_client.kafka.avro import AvroFormat
from live import PATIENT, call, kafka_options, topic, variable, wait_until
from test_vectors import call as vector_call
from test_vectors import check

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EXPERIMENT = "python-experiment"


def test_the_live_vectors(make_kafka, url):
    client = make_kafka(**kafka_options())
    for case in VECTORS["live"]:
        step = {"call": "evaluate", **case}
        if "error" in case:
            with pytest.raises(FlagstreamError) as raised:
                vector_call(client, step)
            assert raised.value.kind == case["error"]["kind"]
            assert vector_call(client, {**step, "call": "evaluate_flag"}) == case["value"]
        else:
            check(case["expect"], vector_call(client, step))


def test_thousands_of_requests_at_once_get_their_own_replies(url):
    async def run():
        async with KafkaFeatureFlagClient(**kafka_options()) as client:
            answers = (client.evaluate_flag("unknown-flag", f"u{number}", f"default-{number}") for number in range(2_000))
            assert await asyncio.gather(*answers) == [f"default-{number}" for number in range(2_000)]
            assert (client.pending_requests, client.late_replies) == (0, 0)

    asyncio.run(run())


def test_a_request_without_reply_becomes_an_event(make_kafka, url):
    client = make_kafka(**kafka_options(traceparent=lambda: TRACE))
    events = os.environ.get("FEATURE_FLAG_KAFKA_TOPIC", topic("EVENTS", "feature-flag-events"))
    consumer = Consumer({"bootstrap.servers": variable("KAFKA_BOOTSTRAP_SERVERS"), "group.id": "test", "enable.auto.commit": False,
                         "isolation.level": "read_committed"})
    places = [TopicPartition(events, partition) for partition in consumer.list_topics(events, 30).topics[events].partitions]
    consumer.assign([TopicPartition(events, one.partition, consumer.get_watermark_offsets(one, 30)[1]) for one in places])
    sent = client.request(["theme", "max-retries"], "u", default_values={"theme": "light", "max-retries": 3},
                          value_types={"max-retries": "integer"}, wait=True)
    found = []

    def both():
        message = consumer.poll(0.1)
        event = json.loads(message.value()) if message is not None and message.error() is None else {}
        if event.get("request_id") == sent:
            found.append(event["value"])
            assert dict(message.headers())["traceparent"].decode() == TRACE and message.key() == b"u"
        return len(found) == 2

    wait_until(both, "both events")
    consumer.close()
    assert found == ["dark", "5"]


def test_experiments_over_http_and_kafka(make, make_kafka, url):
    experiments = f"{url}/api/v1/experiments"
    metrics = [{"name": "purchase"}, {"name": "revenue", "kind": "mean"}]
    variable("DATABASE_URL")
    dimensions = [{"name": "plan", "source": "conversion"}]
    body = {"name": EXPERIMENT, "environment": "production", "control": "light", "metrics": metrics, "dimensions": dimensions}
    # It exists already if the test ran before.
    call(experiments, body, expected=None)
    over_http, through_kafka = make(url, "production", **PATIENT), make_kafka(**kafka_options())
    run = uuid4().hex
    ann, bob = f"ann-{run}", f"bob-{run}"
    before = attributed(experiments)
    assert over_http.get_variant(EXPERIMENT, ann, "none") == through_kafka.get_variant(EXPERIMENT, ann, "none") != "none"
    assert over_http.get_variant("on", ann, "none") == "none"
    assert over_http.track_exposure(EXPERIMENT, ann) and through_kafka.track_exposure(EXPERIMENT, bob)
    for client in (over_http, through_kafka):
        assert client.track_conversion(EXPERIMENT, ann, "purchase", event_id=f"order-{run}", metadata={"plan": "gold"})
    assert through_kafka.track_conversion(EXPERIMENT, bob, "purchase", metadata={"plan": "silver"})
    assert over_http.track("revenue", ann, 12.5, metadata={"plan": "bronze"})
    wait_until(lambda: attributed(experiments) == before + 3, "two users, three conversions")
    assert plans(experiments) == {"gold", "silver", "bronze"}


def results(experiments):
    return call(f"{experiments}/{EXPERIMENT}/results?environment=production", expected=None)


def attributed(experiments):
    return results(experiments).get("conversions", {}).get("attributed", 0)


def plans(experiments):
    """Values of the metadata of conversions."""
    return {level["value"] for level in results(experiments)["phase"]["dimensions"][0]["levels"]}


@pytest.mark.avro
def test_requests_and_replies_are_in_avro(make_kafka, url):
    client = make_kafka(**kafka_options(format=AvroFormat(variable("SCHEMA_REGISTRY_URL"))))
    context = {"subscription_tier": "premium"}
    assert client.evaluate_flag("theme", "u", "light", context) == "dark"
    assert client.evaluate_flag("max-retries", "u", 3, value_type="integer") == 5
    assert client.evaluate_flag("config", "u", {}) == {"threshold": 0.8, "regions": ["us", "eu"]}
    many = client.bulk_evaluate_flags(["theme", "premium"], "u", context, default_values={"theme": "light"})
    assert {flag: result["value"] for flag, result in many.items()} == {"theme": "dark", "premium": True}
    for case in VECTORS["live"]:
        if "expect" in case:
            check(case["expect"], vector_call(client, {"call": "evaluate", **case}))
