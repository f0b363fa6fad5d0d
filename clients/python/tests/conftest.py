"""Both clients as one: each test that takes `make` runs with the one for asyncio and the one for threads."""

import asyncio
import inspect
import json
import os
from pathlib import Path

import pytest
from flagstream_client import FeatureFlagClient, SyncFeatureFlagClient

VECTORS = json.loads((Path(__file__).parents[2] / "vectors.json").read_text())


class Blocking:
    """The client for asyncio, called as that for threads is."""

    def __init__(self, *arguments, **options):
        self.runner = asyncio.Runner()
        self.client = self.runner.run(self._make(arguments, options))

    @staticmethod
    async def _make(arguments, options):
        return FeatureFlagClient(*arguments, **options)

    def __getattr__(self, name):
        found = getattr(self.client, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *arguments, **options: self.runner.run(found(*arguments, **options))

    def close(self):
        self.runner.run(self.client.close())
        self.runner.close()


@pytest.fixture(params=[Blocking, SyncFeatureFlagClient], ids=["async", "sync"])
def make(request):
    made = []

    def make(*arguments, **options):
        made.append(request.param(*arguments, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def url():
    if "FLAGSTREAM_URL" not in os.environ:
        pytest.skip("FLAGSTREAM_URL is not set: no service to ask")
    return os.environ["FLAGSTREAM_URL"]
