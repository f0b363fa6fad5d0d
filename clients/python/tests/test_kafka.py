"""Requests and replies through Kafka, with librdkafka's mock broker."""

import asyncio
import json
import logging
import threading

import pytest
from fake_kafka import CONVERSIONS, FETCH_WAIT_MS, LIMIT_S, REPLIES, REQUESTS, UPDATES, FakeKafka, FakeService, answer, wait_until
from flagstream_client import (
    CircuitOpenError,
    ConnectionFailedError,
    FlagChange,
    InvalidAnswerError,
    InvalidRequestError,
    RateLimitedError,
    SyncFeatureFlagClient,
    TimedOutError,
    UnavailableError,
)
from flagstream_client.kafka import KafkaFeatureFlagClient, KafkaInvalidations, SyncKafkaFeatureFlagClient
from flagstream_client.kafka.replies import ReplyReader


@pytest.fixture
def kafka():
    return FakeKafka()


@pytest.fixture
def service(kafka):
    service = FakeService(kafka)
    yield service
    service.close()


def options(**more):
    return {"environment": "production", "reply_topic": REPLIES, "requests_topic": REQUESTS, "conversions_topic": CONVERSIONS,
            "updates_topic": UPDATES, "properties": {"fetch.wait.max.ms": FETCH_WAIT_MS}, "timeout": LIMIT_S, **more}


def change(version, flag="f", environment="production"):
    event = {"event_type": "FEATURE_FLAG_UPDATED", "flag_name": flag, "environment": environment, "version": version}
    return json.dumps(event).encode()


def test_a_request_and_its_reply(kafka, service, make_kafka):
    client = make_kafka(kafka.servers, **options(traceparent=lambda: "00-trace-span-01"))
    evaluation = client.evaluate("f", "u", False, {"plan": "pro"}, session_id="s")
    assert (evaluation.value, evaluation.flags_version, evaluation.environment) == (True, 10, "production")
    key, headers, body = service.requests[0]
    assert key == b"u" and headers["reply-to"] == REPLIES.encode() and headers["traceparent"] == b"00-trace-span-01"
    assert body.pop("requested_at").endswith("Z")
    assert body == {"request_id": headers["correlation-id"].decode(), "flag_name": "f", "user_id": "u", "session_id": "s",
                    "context": {"plan": "pro"}, "default_value": False, "environment": "production"}


def test_many_flags_are_one_request(kafka, service, make_kafka):
    client = make_kafka(kafka.servers, **options())
    found = client.evaluate_many(["a", "b"], "u", default_values={"a": False}, value_types={"b": "boolean"})
    assert list(found) == ["a", "b"]
    assert client.batch_evaluate(["a", "b"], 7) == {"a": True, "b": True}
    assert len(service.requests) == 2
    assert service.requests[0][2]["value_types"] == {"b": "boolean"}
    assert (service.requests[1][0], service.requests[1][2]["user_id"]) == (b"7", 7)


def test_a_thousand_requests_at_once_get_their_own_replies(kafka, service):
    service.answer = lambda body: answer(body, value=body["user_id"])

    async def run():
        async with KafkaFeatureFlagClient(kafka.servers, **options()) as client:
            values = await asyncio.gather(*(client.evaluate_flag("f", f"u{i}", "none") for i in range(1_000)))
            assert values == [f"u{i}" for i in range(1_000)]
            assert (client.pending_requests, client.late_replies) == (0, 0)

    asyncio.run(run())


def test_threads_share_a_client_and_clients_share_a_consumer(kafka, service):
    service.answer = lambda body: answer(body, value=body["user_id"])
    with SyncKafkaFeatureFlagClient(kafka.servers, **options()) as one, SyncKafkaFeatureFlagClient(kafka.servers, **options()) as two:
        said = []

        def ask(client, thread):
            for number in range(20):
                user = f"{thread}-{number}"
                said.append(client.evaluate_flag("f", user, "none") == user)

        threads = [threading.Thread(target=ask, args=(client, f"{i}-{id(client)}")) for i in range(4) for client in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert said == [True] * 160
        assert [thread.name for thread in threading.enumerate()].count("flagstream-replies") == 1
    wait_until(lambda: "flagstream-replies" not in [thread.name for thread in threading.enumerate()], "the reader has ended")
    assert ReplyReader._shared == {}


def test_after_the_deadline_the_default_is_returned_and_the_late_reply_counted(kafka, service, make_kafka):
    errors = []
    client = make_kafka(kafka.servers, **options(timeout=0.3, on_error=errors.append))
    client.wait_until_ready(LIMIT_S)
    service.open.clear()
    assert client.evaluate_flag("f", "u", "light") == "light"
    assert [error.kind for error in errors] == ["timed_out"]
    assert client.pending_requests == 0
    service.open.set()
    wait_until(lambda: client.late_replies == 1, "the late reply is counted")


def test_requests_without_replies_open_the_circuit_and_a_late_reply_lets_one_through(kafka, service, make_kafka):
    client = make_kafka(kafka.servers, **options(timeout=0.3, failure_threshold=2, recovery_timeout=600))
    client.wait_until_ready(LIMIT_S)
    service.open.clear()
    for _ in range(2):
        with pytest.raises(TimedOutError, match="no reply within 0.3 s"):
            client.evaluate("f", "u")
    with pytest.raises(CircuitOpenError):
        client.evaluate("f", "u")
    service.open.set()
    wait_until(lambda: client.is_enabled("f", "u"), "the service is asked again")
    assert client.late_replies >= 1


def test_only_so_many_requests_wait(kafka, service):
    async def run():
        async with KafkaFeatureFlagClient(kafka.servers, **options(max_pending=2)) as client:
            await client.wait_until_ready(LIMIT_S)
            service.open.clear()
            waiting = [asyncio.create_task(client.evaluate("f", "u")) for _ in range(2)]
            while client.pending_requests < 2:
                await asyncio.sleep(0)
            with pytest.raises(RateLimitedError, match="2 requests"):
                await client.evaluate("f", "u")
            waiting[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting[0]
            assert client.pending_requests == 1, "a cancelled request does not wait"
            service.open.set()
            assert (await waiting[1]).value is True

    asyncio.run(run())


def test_closing_ends_requests_that_wait(kafka, service):
    service.open.clear()
    client = SyncKafkaFeatureFlagClient(kafka.servers, **options())
    client.wait_until_ready(LIMIT_S)
    errors = []

    def ask():
        with pytest.raises(ConnectionFailedError, match="closed") as raised:
            client.evaluate("f", "u")
        errors.append(raised.value)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: client.pending_requests == 1)
    client.close()
    thread.join()
    assert len(errors) == 1
    assert client.is_enabled("f", "u", default=True) is True


def test_a_version_is_waited_for_with_repeated_requests(kafka, service, make_kafka):
    service.answer = lambda body: answer(body, version=8 + len(service.requests))
    client = make_kafka(kafka.servers, **options())
    assert client.evaluate("f", "u", min_version=11).flags_version == 11
    assert len(service.requests) == 3
    never = make_kafka(kafka.servers, **options(timeout=0.5))
    never.wait_until_ready(LIMIT_S)
    service.answer = lambda body: answer(body, version=5)
    with pytest.raises((UnavailableError, TimedOutError)):
        never.evaluate("f", "u", min_version=11)


def test_bad_replies_and_bad_requests_are_named(kafka, service, make_kafka):
    client = make_kafka(kafka.servers, **options())
    service.answer = lambda body: b"\\0\\0"
    with pytest.raises(InvalidAnswerError, match="not JSON"):
        client.evaluate("f", "u")
    service.answer = lambda body: {"results": {}}
    with pytest.raises(InvalidAnswerError, match="flags_version"):
        client.evaluate("f", "u")
    count = len(service.requests)
    for flag, more in (("", {}), ("x" * 256, {}), ("f", {"value_type": "int"}), ("f", {"context": {"a": object()}})):
        with pytest.raises(InvalidRequestError):
            client.evaluate(flag, "u", **more)
    with pytest.raises(InvalidRequestError, match="1 to 1000"):
        client.evaluate_many([f"f{i}" for i in range(1_001)], "u")
    assert len(service.requests) == count


def test_without_a_reply_topic_only_requests_without_reply_are_possible(kafka, make_kafka):
    client = make_kafka(kafka.servers, **options(reply_topic=None))
    with pytest.raises(InvalidRequestError, match="reply_topic"):
        client.evaluate("f", "u")
    first = client.request("f", "u", value_types={"f": "string"}, wait=True)
    second = client.request(["f", "g"], "u", default_values={"g": 1})
    messages = {json.loads(message.value())["request_id"]: message for message in kafka.read(REQUESTS, 2)}
    assert set(messages) == {first, second}
    assert json.loads(messages[first].value())["value_type"] == "string"
    assert json.loads(messages[second].value())["default_values"] == {"g": 1}
    assert not messages[first].headers()


def test_a_reply_topic_that_does_not_exist_is_named(kafka, make_kafka, caplog):
    with caplog.at_level(logging.WARNING):
        client = make_kafka(kafka.servers, **options(reply_topic="missing-replies", timeout=1, failure_threshold=LIMIT_S))

        def is_named():
            # The consumer of replies may learn it after the first request.
            with pytest.raises(TimedOutError) as raised:
                client.evaluate("f", "u")
            return "missing-replies does not exist" in str(raised.value)

        wait_until(is_named, "the error names the topic")


def test_without_kafka_calls_return_their_defaults(make_kafka):
    errors = []
    client = make_kafka("127.0.0.1:1", **options(timeout=0.2, failure_threshold=2, on_error=errors.append))
    assert [client.evaluate_flag("f", "u", "light") for _ in range(3)] == ["light"] * 3
    assert [error.kind for error in errors] == ["timed_out", "timed_out", "circuit_open"]
    with pytest.raises(TimedOutError, match="Kafka does not have the request"):
        client.request("f", "u", wait=True)


def test_an_outage_is_logged_once(caplog):
    kafka = FakeKafka()
    with SyncKafkaFeatureFlagClient(kafka.servers, **options(timeout=0.2, follow_changes=True)) as client:
        client.wait_until_ready(LIMIT_S)
        client.wait_until_following(LIMIT_S)
        with caplog.at_level(logging.INFO):
            # The broker ends with the producer that embeds it.
            del kafka
            wait_until(lambda: caplog.text.count("Kafka is unreachable") >= 2, "both consumers report it")
            assert client.is_enabled("f", "u") is False
        lines = [record.getMessage() for record in caplog.records]
    assert not [line for line in lines if line.startswith("FAIL")]
    for start in ("reply topic replies: Kafka is unreachable", "updates: no changes arrive: Kafka is unreachable"):
        assert len([line for line in lines if line.startswith(start)]) == 1, lines


def test_exposures_and_conversions_are_messages(kafka, make_kafka, caplog):
    client = make_kafka(kafka.servers, **options(reply_topic=None))
    assert client.track_exposure("checkout", "ann", {"plan": "pro"})
    assert client.track_conversion("checkout", "ann", "purchase", 12.5, event_id="order-77")
    exposure = json.loads(kafka.read(REQUESTS, 1)[0].value())
    assert (exposure["flag_name"], exposure["user_id"], exposure["value_type"]) == ("checkout", "ann", "string")
    message = kafka.read(CONVERSIONS, 1)[0]
    conversion = json.loads(message.value())
    assert message.key() == b"ann" and conversion.pop("occurred_at").endswith("Z")
    assert conversion == {"experiment": "checkout", "environment": "production", "user_id": "ann", "metric": "purchase",
                          "value": 12.5, "event_id": "order-77"}
    assert client.track_conversion("checkout", "ann", "view", metadata={"plan": "gold"})
    assert json.loads(kafka.read(CONVERSIONS, 2)[1].value())["metadata"] == {"plan": "gold"}
    with caplog.at_level(logging.WARNING):
        assert client.track("purchase", "ann") is False
        assert client.track_conversion("checkout", None, "purchase") is False
    assert "use track_conversion" in caplog.text and "a user is required" in caplog.text


def test_changes_invalidate_the_cache_of_a_client_over_kafka(kafka, service, make_kafka):
    kafka.send(UPDATES, change(10))
    client = make_kafka(kafka.servers, **options(follow_changes=True))
    heard = []
    client.on_change(heard.append)
    client.wait_until_following(LIMIT_S)
    assert client.is_following
    wait_until(lambda: client.evaluate("f", "u").cached or None, "the answer is cached")
    service.answer = lambda body: answer(body, value=False, version=12)
    kafka.send(UPDATES, change(12))
    wait_until(lambda: client.evaluate("f", "u").value is False, "the change is visible")
    assert heard == [FlagChange("FEATURE_FLAG_UPDATED", "f", "production", 12)], "earlier changes are no news"


def test_changes_from_kafka_reach_a_client_over_http(kafka, caplog):
    client = SyncFeatureFlagClient("http://127.0.0.1:1", "production", cache=True)
    names = []
    remove = client.register_invalidation_callback(names.append)
    with KafkaInvalidations(client, {"bootstrap.servers": kafka.servers, "fetch.wait.max.ms": FETCH_WAIT_MS}, UPDATES):
        kafka.send(UPDATES, change(12, "first"))
        wait_until(lambda: names == ["first"])
        assert client._core.cache.newest == 12
        with caplog.at_level(logging.WARNING):
            kafka.send(UPDATES, b"what")
            wait_until(lambda: "not a change that this client can read" in caplog.text)
        remove()
        kafka.send(UPDATES, change(13, "second"))
        wait_until(lambda: client._core.cache.newest == 13)
        assert names == ["first"]
    with pytest.raises(TimeoutError, match="updates"):
        KafkaInvalidations(client, {"bootstrap.servers": "127.0.0.1:1"}, UPDATES).start(timeout=0.2)
    client.close()


def test_coroutine_functions_listen_in_their_loop(kafka):
    async def run():
        client = KafkaFeatureFlagClient(kafka.servers, **options(reply_topic=None, follow_changes=True))
        heard = asyncio.Queue()

        async def listener(name):
            await heard.put((name, asyncio.get_running_loop()))

        client.register_invalidation_callback(listener)
        await client.wait_until_following(LIMIT_S)
        await asyncio.to_thread(kafka.send, UPDATES, change(12))
        assert await asyncio.wait_for(heard.get(), LIMIT_S) == ("f", asyncio.get_running_loop())
        await client.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "bootstrap_servers"), ({"bootstrap_servers": "k:9092", "max_pending": 0}, "max_pending"),
     ({"bootstrap_servers": "k:9092", "timeout": -1}, "timeout")],
)
def test_wrong_options_are_named(given, message, monkeypatch):
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    with pytest.raises(ValueError, match=message):
        SyncKafkaFeatureFlagClient(**given)


def test_variables_of_the_environment_are_defaults(kafka, monkeypatch):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.servers)
    monkeypatch.setenv("ENVIRONMENT", "staging")
    with SyncKafkaFeatureFlagClient() as client:
        assert (client._settings.environment, client._core.address) == ("staging", kafka.servers)
