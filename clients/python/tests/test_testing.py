"""Aids for tests: mocks with the calls of the clients, and `mock_flag`."""

import asyncio
import inspect
import threading

import pytest
from conftest import VECTORS
from flagstream_client import (
    AsyncFlags,
    Conversion,
    FeatureFlagClient,
    FlagChange,
    Flags,
    MockFeatureFlagsClient,
    MockSyncFeatureFlagsClient,
    SyncFeatureFlagClient,
    mock_flag,
)
from flagstream_client.kafka import KafkaFeatureFlagClient, SyncKafkaFeatureFlagClient
from scripted import ScriptedServer

#: What clients over Kafka have beside the calls that all clients have.
KAFKA_ONLY = {"request", "late_replies", "pending_requests", "wait_until_ready"}
#: What mocks have beside these calls.
MOCK_ONLY = {"flags", "asked", "exposures", "conversions", "tracked", "set", "set_for", "remove", "set_following"}


def interface(kind):
    """The public methods with their signatures, and the properties."""
    found = {}
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if name.startswith("_") or not isinstance(member, property) and not inspect.isfunction(member):
            continue
        found[name] = "property" if isinstance(member, property) else (inspect.signature(member), inspect.iscoroutinefunction(member))
    return found


@pytest.mark.parametrize(
    ("calls", "client", "kafka", "mock"),
    [
        (AsyncFlags, FeatureFlagClient, KafkaFeatureFlagClient, MockFeatureFlagsClient),
        (Flags, SyncFeatureFlagClient, SyncKafkaFeatureFlagClient, MockSyncFeatureFlagsClient),
    ],
)
def test_clients_and_mocks_have_the_same_interface(calls, client, kafka, mock):
    expected = interface(calls)
    assert {"is_enabled", "get_variant", "track_exposure", "track_conversion", "track", "on_change", "is_following"} <= set(expected)
    assert interface(client) == expected
    for kind, more in ((kafka, KAFKA_ONLY), (mock, MOCK_ONLY)):
        found = interface(kind)
        assert set(found) - set(expected) == more
        assert {name: found[name] for name in expected} == expected


def test_asyncio_and_blocking_have_the_same_interface():
    for asynchronous, blocking in ((KafkaFeatureFlagClient, SyncKafkaFeatureFlagClient), (MockFeatureFlagsClient, MockSyncFeatureFlagsClient)):
        signatures = [{name: member if isinstance(member, str) else member[0] for name, member in interface(kind).items()}
                      for kind in (asynchronous, blocking)]
        assert signatures[0] == signatures[1]


def process_request(flags):
    return "new" if flags.is_enabled("new-ui-enabled", "user-123") else "old"


def test_mock_flag_sets_a_flag_for_all_clients(make):
    with ScriptedServer(VECTORS["answer"], [{"body": {"results": {"other": VECTORS["answer"]}}}]) as server:
        flags = make(server.url, "production", cache=True)
        with mock_flag("new-ui-enabled", True):
            assert process_request(flags) == "new"
            with mock_flag("new-ui-enabled", False):
                assert process_request(flags) == "old"
                assert flags.batch_evaluate(["new-ui-enabled", "other"], "u") == {"new-ui-enabled": False, "other": True}
            assert process_request(flags) == "new"
        assert [request["body"].get("flag_names") for request in server.requests] == [["other"]]
        with mock_flag("theme", "dark"):
            assert flags.evaluate_flag("theme", "u", "light") == "dark"
            assert flags.get_variant("theme", "u", "none") == "dark"
            assert flags.evaluate("theme", "u").environment == "production"
        assert process_request(flags) == "old", "the service is asked again, which does not answer"
        assert len(server.requests) == 2


def test_mock_flag_sets_a_flag_for_mocks_and_threads_and_decorates():
    mock = MockSyncFeatureFlagsClient({"new-ui-enabled": False})

    @mock_flag("new-ui-enabled", True)
    def decorated():
        said = []
        thread = threading.Thread(target=lambda: said.append(process_request(mock)))
        thread.start()
        thread.join()
        return said

    assert decorated() == ["new"]
    assert process_request(mock) == "old"
    with pytest.raises(ZeroDivisionError), mock_flag("new-ui-enabled", True):
        1 / 0
    assert process_request(mock) == "old"


def test_mocks_remember_reports():
    async def run():
        async with MockFeatureFlagsClient({"checkout": "one-page"}) as mock:
            assert await mock.get_variant("checkout", "ann", "classic") == "one-page"
            assert await mock.get_variant("other", "ann", "classic") == "classic"
            assert await mock.track_exposure("checkout", "ann")
            assert await mock.track_conversion("checkout", "ann", "purchase", 12.5, event_id="order-77", metadata={"plan": "gold"})
            assert await mock.track("view", "ann", metadata={"plan": "gold"})
            assert not await mock.track("view", None)
            assert not await mock.track("view", "ann", metadata={"experiment": "checkout"})
            return mock

    mock = asyncio.run(run())
    assert mock.exposures == [("checkout", "ann")]
    expected = Conversion("checkout", "purchase", 12.5, "order-77", metadata={"plan": "gold"})
    assert mock.conversions == [(expected, "ann")] and len({*mock.conversions}) == 1
    assert [(one.metric, one.user_id, one.value, one.metadata) for one in mock.tracked] == [("view", "ann", None, {"plan": "gold"})]


def test_changes_of_a_mock_reach_its_listeners():
    mock = MockSyncFeatureFlagsClient({"f": True})
    changes, names, following = [], [], []
    remove = mock.on_change(changes.append)
    mock.on_change(changes.append)()
    mock.register_invalidation_callback(names.append)
    mock.on_following(following.append)
    mock.on_change(lambda change: 1 / 0)
    with mock.set_for("f", False), mock.set_for("g", 1):
        assert mock.is_enabled("f") is False
    mock.invalidate(77, "production")
    remove()
    mock.set("f", False)
    mock.set_following(False)
    assert [(change.event_type.removeprefix("FEATURE_FLAG_"), change.flag_name) for change in changes] == [
        ("UPDATED", "f"), ("CREATED", "g"), ("DELETED", "g"), ("UPDATED", "f"), ("RESET", None)]
    assert changes[-1] == FlagChange("RESET", None, "production", 77)
    assert names == ["f", "g", "g", "f", None, "f"]
    assert following == [False] and not mock.is_following


def test_coroutine_functions_listen_to_clients_over_http():
    async def run():
        client = FeatureFlagClient("http://127.0.0.1:1")
        heard = asyncio.Queue()

        async def callback(flag):
            await heard.put(flag)

        client.register_invalidation_callback(callback)
        await asyncio.to_thread(client.invalidate, 5, "production", "f")
        assert await asyncio.wait_for(heard.get(), 30) == "f"
        await client.close()

    asyncio.run(run())
    with SyncFeatureFlagClient("http://127.0.0.1:1") as client:

        async def callback(change):
            """Has no loop to run in."""

        with pytest.raises(RuntimeError, match="event loop"):
            client.on_change(callback)
