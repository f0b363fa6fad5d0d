"""What one language has of its own: cancellation, threads, options."""

import asyncio
import logging
import threading
import time

import pytest
from conftest import VECTORS
from flagstream_client import (
    AsyncFlags,
    CircuitOpenError,
    FeatureFlagClient,
    FeatureFlagsClient,
    FlagChange,
    Flags,
    InvalidRequestError,
    MockFeatureFlagsClient,
    MockSyncFeatureFlagsClient,
    SyncFeatureFlagClient,
    UnavailableError,
)
from flagstream_client.changes import MAX_LINE_BYTES, Changes
from flagstream_client.errors import InvalidAnswerError
from flagstream_client.http_core import HttpCore
from flagstream_client.options import HttpSettings
from scripted import ScriptedServer


def test_a_cancelled_attempt_lets_the_next_one_try():
    async def run(server):
        client = FeatureFlagClient(server.url, failure_threshold=1, max_retries=0, recovery_timeout=0)
        with pytest.raises(UnavailableError):
            await client.evaluate("f")
        probe = asyncio.create_task(client.evaluate("f"))
        while len(server.requests) < 2:
            await asyncio.sleep(0.001)
        with pytest.raises(CircuitOpenError):
            await client.evaluate("f")
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert (await client.evaluate("f")).value is True
        await client.close()

    with ScriptedServer(VECTORS["answer"], [{"status": 500}, {"hang": True}, {}]) as server:
        asyncio.run(run(server))


def test_threads_share_a_client():
    with ScriptedServer(VECTORS["answer"], [{}] * 400) as server:
        client = SyncFeatureFlagClient(server.url, cache=True, cache_max_entries=10)
        said = []

        def ask(thread):
            for number in range(50):
                client.invalidate(number % 10)
                said.append(client.is_enabled("f", f"user-{(thread + number) % 20}"))

        threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.close()
        assert said == [True] * 400
        assert 20 <= len(server.requests) <= 400


def test_connections_are_used_again(make):
    with ScriptedServer(VECTORS["answer"], [{}] * 5) as server:
        connections = set()
        serve = server.serve
        server.serve = lambda call: (connections.add(call.client_address), serve(call))
        client = make(server.url)
        assert [client.is_enabled("f") for _ in range(5)] == [True] * 5
        assert len(connections) == 1


def test_what_is_not_json_is_not_sent(make):
    client = make("http://127.0.0.1:1")
    with pytest.raises(InvalidRequestError, match="not JSON") as raised:
        client.evaluate("f", context={"when": object()})
    assert raised.value.status is None
    assert client.is_enabled("f", default=True, context={"nan": float("nan")}) is True
    assert client.bulk_evaluate_flags(["f"], context={"nan": float("nan")})["f"]["reason"] == "ERROR"


def test_a_value_has_the_type_of_its_default(make, caplog):
    values = [[1], {"a": 1}, True, 5, "5", 5, 2.5, {"b": 2}]
    with ScriptedServer(VECTORS["answer"], [{"body": {"value": value}} for value in values]) as server:
        client = make(server.url)
        defaults = [{"d": 1}, [0], "light", False, 3, 0.5, 3, {"d": 1}]
        with caplog.at_level(logging.WARNING):
            said = [client.evaluate_flag("f", default_value=default) for default in defaults]
        assert said == [{"d": 1}, [0], "light", False, 3, 5, 2.5, {"b": 2}]
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 5
    assert "f: the value is of type list, the default of type dict" in warned[0]


def test_hidden_failures_are_told(make, caplog):
    told = []
    make("http://127.0.0.1:1", max_retries=0, on_error=told.append).is_enabled("f")
    assert [error.kind for error in told] == ["connection_failed"]
    with caplog.at_level(logging.WARNING):
        make("http://127.0.0.1:1", max_retries=0).is_enabled("f")
    assert "f answered with the default: http://127.0.0.1:1: " in caplog.text


def test_errors_that_the_service_answers_are_warned_of_once(make, caplog):
    error = {"reason": "ERROR", "error_code": "PROVIDER_NOT_READY", "error_message": "not served", "environment": "e"}
    other = {**error, "error_code": "TYPE_MISMATCH"}
    with ScriptedServer(VECTORS["answer"], [{"body": error}, {"body": error}, {"body": other}, {}]) as server:
        client = make(server.url)
        with caplog.at_level(logging.WARNING):
            for _ in range(4):
                client.is_enabled("f")
    warned = [record.getMessage() for record in caplog.records if "answered with its default" in record.getMessage()]
    assert len(warned) == 2
    assert "in environment e " in warned[0]
    assert "PROVIDER_NOT_READY: not served" in warned[0]


def test_a_closed_client_answers_with_defaults():
    client = SyncFeatureFlagClient("http://127.0.0.1:1")
    client.close()
    assert client.is_enabled("f", default=True) is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config_service_url": "flagstream:8082"}, "config_service_url"),
        ({"config_service_url": "http://x", "timeout": 0}, "timeout"),
        ({"config_service_url": "http://x", "max_retries": -1}, "max_retries"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SyncFeatureFlagClient(**options)


def test_the_mock_says_what_it_was_told():
    async def run():
        mock = MockFeatureFlagsClient({"new_ui": True, "theme": "dark"})
        assert await mock.is_enabled("new_ui", "user123")
        assert await mock.is_enabled("unknown", "user123", default=True)
        assert await mock.evaluate_flag("theme", default_value="light") == "dark"
        assert await mock.batch_evaluate(["new_ui", "other"], "u") == {"new_ui": True, "other": False}
        assert (await mock.bulk_evaluate_flags(["theme"], user_id="u"))["theme"]["value"] == "dark"
        assert mock.asked[0] == ("new_ui", "user123")

    asyncio.run(run())
    assert FeatureFlagsClient is FeatureFlagClient


def test_the_mocks_are_of_the_clients_type():
    asynchronous, blocking = MockFeatureFlagsClient({"x": 1}), MockSyncFeatureFlagsClient({"x": 1})
    assert isinstance(asynchronous, AsyncFlags) and issubclass(FeatureFlagClient, AsyncFlags)
    assert isinstance(blocking, Flags) and issubclass(SyncFeatureFlagClient, Flags)
    for mock in (asynchronous, blocking):
        mock.invalidate(5)
        mock.clear_cache()
        mock.flags = {"y": 2}
        assert mock.is_following and mock.flags == {"y": 2}
    with MockSyncFeatureFlagsClient({"new_ui": False, "theme": "dark"}) as mock:
        assert mock.is_enabled("new_ui", "user123", default=True) is False
        assert mock.evaluate_flag("theme", default_value="light") == "dark"
        assert mock.evaluate_many(["theme"], "u")["theme"].value == "dark"
        with mock.set_for("new_ui", True):
            assert mock.is_enabled("new_ui") is True
        assert mock.is_enabled("new_ui") is False


def test_a_stream_that_ended_goes_on_where_it_was_and_closes_the_circuit(make):
    late = b'id: 9\ndata: {"event_type":"RESET","version":9}\n\n'
    answers = [{"status": 500}, {"body": {"flags_version": 9}}]
    with ScriptedServer(VECTORS["answer"], answers, [b"id: 5\n\n", late]) as server:
        client = make(server.url, follow_changes=True, failure_threshold=1, max_retries=0)
        assert client.is_enabled("f") is False
        deadline = time.monotonic() + 30
        # Asked only after the stream was opened; before that the circuit is open for a minute.
        while client.is_enabled("f") is False or len(server.resumed_after) < 2:
            assert time.monotonic() < deadline
            client.wait_until_following(30)
        assert server.resumed_after == [None, "5"]
        assert client.is_enabled("f") is True
        assert len(server.requests) == 2


def test_the_stream_of_changes_is_read_however_it_is_cut():
    core = HttpCore(HttpSettings.of(base_url="http://x"))
    heard = []
    core.changes.add(heard.append)
    changes = Changes(core, "é &")
    assert changes.path == "/api/v1/changes?environment=%C3%A9+%26"
    text = (
        b"retry: 1000\nid: 5\n\n: heartbeat\n\nid: 7\r\n"
        b'data: {"event_type":"FEATURE_FLAG_UPDATED","flag_name":"f","environment":"p","version":7}\r\n\r\n'
    )
    fed = [changes.feed(bytes([byte])) for byte in text]
    assert fed.index(True) == text.index(b"\n\n") + 1
    assert core.cache.newest == 7
    assert heard == [FlagChange("FEATURE_FLAG_UPDATED", "f", "p", 7)]
    assert changes.headers()["last-event-id"] == "7"
    changes.feed(b'id: 9\ndata: {"event_type":"RESET","version":9}\n\nid: 10\ndata: what')
    assert (core.cache.newest, changes.last_id) == (9, "9")
    changes.headers()
    changes.feed(b"id: 11\n\n")
    assert changes.last_id == "11", "half an event of a broken connection is forgotten"
    with pytest.raises(InvalidAnswerError):
        changes.feed(b"x" * (MAX_LINE_BYTES + 1))


def test_variables_of_the_environment_are_defaults(make, monkeypatch):
    with pytest.raises(ValueError, match="CONFIG_SERVICE_URL"):
        make()
    with ScriptedServer(VECTORS["answer"], [{}, {}, {}]) as server:
        monkeypatch.setenv("CONFIG_SERVICE_URL", server.url + "/")
        monkeypatch.setenv("ENVIRONMENT", "staging")
        make().is_enabled("f")
        make(environment="production").is_enabled("f")
        monkeypatch.setenv("ENVIRONMENT", "")
        make().is_enabled("f")
    assert [request["body"].get("environment") for request in server.requests] == ["staging", "production", None]


def test_a_lifetime_alone_turns_the_cache_on(make):
    with ScriptedServer(VECTORS["answer"], [{}]) as server:
        client = make(server.url, cache_ttl=60)
        assert [client.evaluate("f", "u").cached for _ in range(2)] == [False, True]


def test_requests_carry_a_trace(make):
    traces = iter(["00-a-b-01", None])
    with ScriptedServer(VECTORS["answer"], [{}, {}]) as server:
        client = make(server.url, traceparent=lambda: next(traces))
        assert client.is_enabled("f") and client.is_enabled("f")
    assert [request["headers"].get("traceparent") for request in server.requests] == ["00-a-b-01", None]
