"""The service and Kafka go away and come back while clients over Kafka use them."""

import json
import threading
import time

import pytest
from confluent_kafka import Producer
from conftest import BlockingKafka
from flagstream_client.kafka import SyncKafkaFeatureFlagClient
from live import LIMIT_S, control, kafka_options, variable, wait_until

pytestmark = pytest.mark.faults


def test_the_service_is_killed_and_started_again(make_kafka):
    errors = []
    client = make_kafka(**kafka_options(timeout=0.5, failure_threshold=2, recovery_timeout=600, on_error=errors.append))
    client.wait_until_ready(LIMIT_S)
    wait_until(lambda: client.is_enabled("on", "u"), "a reply in time")
    late = client.late_replies
    errors.clear()
    control("service stop")
    assert [client.evaluate_flag("theme", "u", "light") for _ in range(3)] == ["light"] * 3
    assert [error.kind for error in errors] == ["timed_out", "timed_out", "circuit_open"]
    assert client.pending_requests == 0
    control("service start")
    # The requests waited in Kafka. Their late replies are counted, and let the next request through.
    wait_until(lambda: client.evaluate_flag("theme", "u", "light") == "dark", "the service is asked again")
    assert client.late_replies > late


def test_kafka_is_restarted_and_nothing_has_to_be_started_again():
    errors, changes = [], []
    options = kafka_options(timeout=1, failure_threshold=2, recovery_timeout=0.2, on_error=errors.append)
    clients = [kind(**options, follow_changes=True) for kind in (SyncKafkaFeatureFlagClient, BlockingKafka)]
    for client in clients:
        client.on_change(lambda change: changes.append(change.version))
        client.wait_until_following(LIMIT_S)
        client.wait_until_ready(LIMIT_S)
        wait_until(lambda client=client: client.evaluate("on", "u", False).cached, "an answer is cached")
    errors.clear()
    control("kafka stop")
    for client in clients:
        assert client.is_enabled("on", "u"), "from the cache"
        assert [client.evaluate_flag("theme", f"new-{n}", "light") for n in range(4)] == ["light"] * 4
    assert {error.kind for error in errors} == {"timed_out", "circuit_open"}
    # A client that starts meanwhile is ready once Kafka is.
    clients.append(SyncKafkaFeatureFlagClient(**options))
    assert clients[-1].evaluate_flag("theme", "u", "light") == "light"
    sent = clients[-1].request("on", "u")
    control("kafka start")
    for number, client in enumerate(clients):
        wait_until(lambda client=client, n=number: client.evaluate_flag("theme", f"after-{n}", "light") == "dark", "replies arrive again")
    wait_until(lambda: clients[0].late_replies, "replies to requests of the outage are counted")
    version = int(time.time() * 1000)
    announce(version)
    wait_until(lambda: changes.count(version) == 2, "changes arrive again at both clients")
    assert sent
    for client in clients:
        client.close()


def test_a_reply_of_an_aborted_transaction_is_not_taken(make_kafka):
    client = make_kafka(**kafka_options())
    client.wait_until_ready(LIMIT_S)
    assert client.evaluate_flag("theme", "u", "light") == "dark"
    pending, values = pending_of(client), []
    control("service freeze")
    waiting = threading.Thread(target=lambda: values.append(client.evaluate_flag("theme", "u", "light")))
    waiting.start()
    wait_until(lambda: client.pending_requests == 1, "the request waits")
    forge(next(iter(pending._waiting)))
    control("service thaw")
    waiting.join()
    # The forged reply stands before the service's in the same partition.
    assert values == ["dark"]


def pending_of(client):
    return (client.client if isinstance(client, BlockingKafka) else client)._core.pending


def forge(correlation_id):
    """Writes a reply to every partition in a transaction that is aborted."""
    topic = kafka_options()["reply_topic"]
    producer = Producer({"bootstrap.servers": variable("KAFKA_BOOTSTRAP_SERVERS"), "transactional.id": f"forged-{correlation_id}"})
    producer.init_transactions(LIMIT_S)
    producer.begin_transaction()
    result = {"value": "forged", "enabled": True, "variant": None, "reason": "TARGETING_MATCH"}
    reply = {"request_id": correlation_id, "environment": "production", "flags_version": 1, "results": {"theme": result}}
    for partition in producer.list_topics(topic, LIMIT_S).topics[topic].partitions:
        producer.produce(topic, json.dumps(reply).encode(), partition=partition, headers=[("correlation-id", correlation_id.encode())])
    assert producer.flush(LIMIT_S) == 0
    producer.abort_transaction(LIMIT_S)


def announce(version):
    """Writes a change, as the service does, of an environment that no other test uses."""
    producer = Producer({"bootstrap.servers": variable("KAFKA_BOOTSTRAP_SERVERS")})
    change = {"event_type": "FEATURE_FLAG_UPDATED", "flag_name": "on", "environment": "elsewhere", "version": version}
    producer.produce(kafka_options()["updates_topic"], json.dumps(change).encode(), "elsewhere/on")
    assert producer.flush(LIMIT_S) == 0
