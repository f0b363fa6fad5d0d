"""The types and the texts that an editor shows: checked by mypy, and present for all that is public."""

import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import flagstream_client.fastapi
import flagstream_client.kafka
import flagstream_client.openfeature
import flagstream_client.testing
import pytest
from flagstream_client import AsyncFlags, FeatureFlagClient, Flags, Options, SyncFeatureFlagClient
from flagstream_client.kafka import KafkaFeatureFlagClient, KafkaOptions, SyncKafkaFeatureFlagClient
from flagstream_client.kafka.options import KafkaSettings
from flagstream_client.options import DEFAULT_TTL_S, HttpSettings

FOLDER = Path(__file__).parents[1]


def test_calls_have_the_type_of_their_default(tmp_path):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "src", "tests/typed.py"]
    checked = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, env={**os.environ, "MYPYPATH": "src"})
    assert checked.returncode == 0, checked.stdout + checked.stderr


def public_of(module):
    """The classes that a module exports, with their public methods and properties."""
    for name in module.__all__:
        exported = getattr(module, name)
        if inspect.isclass(exported):
            yield name, exported
            for base in exported.__mro__:
                for member, found in vars(base).items() if base.__module__.startswith("flagstream_client") else ():
                    is_method = inspect.isroutine(found) or isinstance(found, (property, classmethod, staticmethod))
                    if is_method and not member.startswith("_"):
                        yield f"{name}.{member}", inspect.getattr_static(exported, member)


def test_everything_public_has_a_docstring():
    found = dict(public_of(flagstream_client))
    assert {"FeatureFlagClient.is_enabled", "MockSyncFeatureFlagsClient.set_for", "Evaluation.as_dict"} <= set(found)
    for module in (flagstream_client.kafka, flagstream_client.openfeature, flagstream_client.fastapi, flagstream_client.testing):
        found |= dict(public_of(module))
    assert [name for name, thing in found.items() if not inspect.getdoc(thing)] == []


@pytest.mark.parametrize(
    ("client", "options", "settings"),
    [
        (FeatureFlagClient, Options, HttpSettings),
        (SyncFeatureFlagClient, Options, HttpSettings),
        (KafkaFeatureFlagClient, KafkaOptions, KafkaSettings),
        (SyncKafkaFeatureFlagClient, KafkaOptions, KafkaSettings),
    ],
)
def test_the_constructor_documents_every_option_with_its_default(client, options, settings):
    entries = re.split(r"\n    (?=\w+: )", inspect.getdoc(client.__init__))
    described = {}
    for name, _, text in (entry.partition(": ") for entry in entries):
        if default := re.search(r"Default: ([\w.-]+?)[.,]?(\s|$)", text):
            described[name] = default[1]
    defaults = {option.name: option.default for option in fields(settings)}
    defaults["cache_ttl"] = DEFAULT_TTL_S
    defaults |= {"properties": "none", "format": "JSON"}
    for name in ["cache_ttl", *get_type_hints(options)]:
        default = defaults[name]
        assert described[name] == (f"{default:g}" if isinstance(default, float) else str(default)), name


def signatures(kind):
    found = {}
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_"):
            found[name] = (inspect.signature(method), inspect.getdoc(method) if name != "wait_until_following" else None)
    return found


def test_both_kinds_of_clients_have_the_same_calls():
    assert signatures(AsyncFlags) == signatures(Flags)
    for pair in ((FeatureFlagClient, SyncFeatureFlagClient), (KafkaFeatureFlagClient, SyncKafkaFeatureFlagClient)):
        of_async, of_sync = (inspect.getdoc(client.__init__).partition("Args:")[2] for client in pair)
        assert of_async.replace("httpx2.AsyncClient", "httpx2.Client").replace("redis.asyncio.Redis", "redis.Redis") == of_sync
