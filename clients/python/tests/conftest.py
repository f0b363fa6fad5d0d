"""Both clients as one: each test that takes `make` runs with the one for asyncio and the one for threads."""

import asyncio
import inspect
import json
import os
from pathlib import Path

import pytest
from flagstream_client import FeatureFlagClient, SyncFeatureFlagClient
from flagstream_client.kafka import KafkaFeatureFlagClient, SyncKafkaFeatureFlagClient

VECTORS = json.loads((Path(__file__).parents[2] / "vectors.json").read_text())


class Blocking:
    """The client for asyncio, called as that for threads is."""

    kind = FeatureFlagClient

    def __init__(self, *arguments, **options):
        self.runner = asyncio.Runner()
        self.client = self.runner.run(self._make(arguments, options))

    async def _make(self, arguments, options):
        return self.kind(*arguments, **options)

    def __getattr__(self, name):
        found = getattr(self.client, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *arguments, **options: self.runner.run(found(*arguments, **options))

    def close(self):
        self.runner.run(self.client.close())
        self.runner.close()


class BlockingKafka(Blocking):
    """The client for asyncio over Kafka, called as that for threads is."""

    kind = KafkaFeatureFlagClient


def maker(kind):
    """A function that creates clients, which are closed after the test."""
    made = []

    def make(*arguments, **options):
        made.append(kind(*arguments, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture(autouse=True)
def no_defaults(monkeypatch):
    """No defaults from the environment of the tests, but the addresses of the service."""
    for name in ("CONFIG_SERVICE_URL", "ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=[Blocking, SyncFeatureFlagClient], ids=["async", "sync"])
def make(request):
    yield from maker(request.param)


@pytest.fixture(params=[BlockingKafka, SyncKafkaFeatureFlagClient], ids=["async", "sync"])
def make_kafka(request):
    yield from maker(request.param)


@pytest.fixture
def url():
    if "FLAGSTREAM_URL" not in os.environ:
        pytest.skip("FLAGSTREAM_URL is not set: no service to ask")
    return os.environ["FLAGSTREAM_URL"]


def pytest_collection_modifyitems(config, items):
    """Tests of a service whose messages are in Avro need SCHEMA_REGISTRY_URL, and only they run with it as such. The same
    holds for tests that stop services, and FLAGSTREAM_TEST_CONTROL."""
    is_avro, is_faults = ("SCHEMA_REGISTRY_URL" in os.environ, "FLAGSTREAM_TEST_CONTROL" in os.environ)
    removed = [
        item
        for item in items
        if item.get_closest_marker("json_only" if is_avro else "avro") or (item.get_closest_marker("faults") is not None) != is_faults
    ]
    config.hook.pytest_deselected(items=removed)
    items[:] = [item for item in items if item not in removed]
