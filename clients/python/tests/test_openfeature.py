"""The provider and the hook for OpenFeature."""

import asyncio
import threading

import pytest
from conftest import VECTORS
from fake_kafka import wait_until
from flagstream_client import MockFeatureFlagsClient, MockSyncFeatureFlagsClient, SyncFeatureFlagClient
from flagstream_client.openfeature import FlagstreamProvider, TelemetryHook, traceparent
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason
from openfeature.telemetry import TelemetryAttribute
from openfeature.track import TrackingEventDetails
from opentelemetry import trace
from scripted import ScriptedServer

USER = EvaluationContext("ann", {"plan": "pro", "session_id": "s"})


@pytest.fixture
def client():
    """Makes a client of OpenFeature with a provider, which is shut down after the test."""

    def make(flags, async_flags=None):
        api.set_provider_and_wait(FlagstreamProvider(flags, async_flags))
        return api.get_client()

    yield make
    api.shutdown()
    api.clear_providers()


def scripted(*bodies):
    return ScriptedServer(VECTORS["answer"], [{"body": body} for body in bodies])


def test_the_type_is_sent_and_the_context_mapped(client):
    bodies = [{"value": True}, {"value": "dark", "variant": "dark"}, {"value": 5}, {"value": 1}, {"value": {"a": 1}}]
    with scripted(*bodies) as server:
        flags = client(SyncFeatureFlagClient(server.url, "production"))
        assert flags.get_boolean_value("f", False, USER) is True
        details = flags.get_string_details("f", "light", USER)
        assert (details.value, details.variant, details.reason) == ("dark", "dark", Reason.TARGETING_MATCH)
        assert details.flag_metadata == {"enabled": True, "flagsVersion": 10, "version": 10}
        assert flags.get_integer_value("f", 3, USER) == 5
        value = flags.get_float_value("f", 0.5, USER)
        assert value == 1.0 and isinstance(value, float)
        assert flags.get_object_value("f", {"a": [0]}, USER) == {"a": 1}
    bodies = [request["body"] for request in server.requests]
    assert [body["value_type"] for body in bodies] == ["boolean", "string", "integer", "float", "object"]
    assert [body["default_value"] for body in bodies] == [False, "light", 3, 0.5, {"a": [0]}]
    assert bodies[0]["user_id"] == "ann" and bodies[0]["context"] == {"plan": "pro", "session_id": "s"}


def test_errors_have_the_codes_of_openfeature(client):
    unknown = {"value": True, "reason": "DEFAULT", "error_code": "FLAG_NOT_FOUND", "error_message": "no such flag"}
    odd = {"value": False, "reason": "ERROR", "error_code": "SOMETHING_NEW"}
    with scripted(unknown, odd, {"value": "text"}) as server:
        flags = client(SyncFeatureFlagClient(server.url))
        details = flags.get_boolean_details("f", True)
        assert (details.value, details.error_code, details.error_message) == (True, ErrorCode.FLAG_NOT_FOUND, "no such flag")
        assert flags.get_boolean_details("f", True).error_code == ErrorCode.GENERAL
        assert flags.get_boolean_details("f", True).error_code == ErrorCode.TYPE_MISMATCH
    away = client(SyncFeatureFlagClient("http://127.0.0.1:1", max_retries=0))
    details = away.get_integer_details("f", 7)
    assert (details.value, details.reason, details.error_code) == (7, Reason.ERROR, ErrorCode.GENERAL)
    nan = EvaluationContext("ann", {"a": float("nan")})
    assert away.get_integer_details("f", 7, nan).error_code == ErrorCode.INVALID_CONTEXT


def test_cached_answers_say_so(client):
    with scripted({}) as server:
        flags = client(SyncFeatureFlagClient(server.url, cache=True))
        reasons = [flags.get_boolean_details("f", False, USER).reason for _ in range(2)]
        assert reasons == [Reason.TARGETING_MATCH, Reason.CACHED]


def test_changes_are_events_and_a_silent_source_is_stale(client):
    mock = MockSyncFeatureFlagsClient({"f": True})
    flags = client(mock)
    events = []
    for event in (ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, ProviderEvent.PROVIDER_STALE, ProviderEvent.PROVIDER_READY):
        api.add_handler(event, lambda details, event=event: events.append((event.name, details.flags_changed)))
    wait_until(lambda: events == [("PROVIDER_READY", None)])
    mock.set("f", False)
    mock.invalidate(77)
    mock.set_following(False)
    mock.set_following(True)
    wait_until(lambda: len(events) == 5, "all events")
    assert sorted(events[1:], key=str) == [("PROVIDER_CONFIGURATION_CHANGED", ["f"]), ("PROVIDER_CONFIGURATION_CHANGED", []),
                                           ("PROVIDER_READY", None), ("PROVIDER_STALE", None)]
    assert flags.get_boolean_value("f", True) is False


def test_awaited_calls_use_the_client_for_asyncio_or_a_thread(client):
    async def run(flags):
        assert await flags.get_boolean_value_async("on", False, USER) is True
        assert await flags.get_string_value_async("theme", "light", USER) == "dark"
        assert await flags.get_integer_value_async("five", 3, USER) == 5
        assert await flags.get_float_value_async("half", 0.1, USER) == 0.5
        assert await flags.get_object_value_async("object", {}, USER) == {"a": 1}

    values = {"on": True, "theme": "dark", "five": 5, "half": 0.5, "object": {"a": 1}}
    asynchronous = MockFeatureFlagsClient(values)
    asyncio.run(run(client(MockSyncFeatureFlagsClient(), asynchronous)))
    assert len(asynchronous.asked) == 5
    blocking = MockSyncFeatureFlagsClient(values)
    asyncio.run(run(client(blocking)))
    assert len(blocking.asked) == 5


def test_tracking_events_are_conversions_and_do_not_wait(client):
    released = threading.Event()

    class Slow(MockSyncFeatureFlagsClient):
        def track(self, *arguments, **more):
            released.wait()
            return super().track(*arguments, **more)

    mock = Slow()
    flags = client(mock)
    flags.track("purchase", USER, TrackingEventDetails(12.5))
    flags.track("purchase", USER, TrackingEventDetails(3.0, {"experiment": "checkout", "eventId": "order-77"}))
    attributes = {"plan": "gold", "cart": {"items": [1]}, "value": 9, "occurredAt": "today"}
    flags.track("purchase", USER, TrackingEventDetails(None, attributes))
    flags.track("purchase", USER, TrackingEventDetails(None, {**attributes, "experiment": "checkout"}))
    assert mock.tracked == []
    released.set()
    wait_until(lambda: len(mock.conversions) == 2, "all are reported")
    metadata = {"plan": "gold", "cart": {"items": [1]}}
    assert [(one.metric, one.user_id, one.value, one.metadata) for one in mock.tracked] == \
        [("purchase", "ann", 12.5, None), ("purchase", "ann", None, metadata)]
    assert [one.metadata for one, _ in mock.conversions] == [None, metadata]
    conversion, user = mock.conversions[0]
    assert (conversion.experiment, conversion.metric, conversion.value, conversion.event_id, user) == \
        ("checkout", "purchase", 3.0, "order-77", "ann")


class Span(trace.NonRecordingSpan):
    """A span that keeps its events."""

    def __init__(self):
        context = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(1))
        super().__init__(context)
        self.events = []

    def is_recording(self):
        return True

    def add_event(self, name, attributes=None, timestamp=None):
        self.events.append((name, attributes))


def test_the_hook_adds_evaluations_to_the_span(client):
    flags = client(MockSyncFeatureFlagsClient({"theme": "dark"}))
    flags.add_hooks([TelemetryHook()])
    flags.get_string_value("theme", "light", USER)
    span = Span()
    assert traceparent() is None
    with trace.use_span(span):
        assert traceparent() == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        flags.get_string_value("theme", "light", USER)
        flags.get_boolean_value("unknown", True, USER)
    assert [name for name, _ in span.events] == ["feature_flag.evaluation"] * 2
    first, second = (attributes for _, attributes in span.events)
    assert first[TelemetryAttribute.KEY] == "theme" and first[TelemetryAttribute.VARIANT] == "dark"
    assert second[TelemetryAttribute.ERROR_TYPE] == "flag_not_found"
