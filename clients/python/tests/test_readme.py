"""The samples of the documents: each is checked by mypy, and runs. Without a service its calls return their defaults."""

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fake_kafka import REPLIES, UPDATES, FakeKafka, FakeService
from fastapi.testclient import TestClient
from flagstream_client import Flags
from openfeature import api

FOLDER = Path(__file__).parents[1]
DOCUMENTS = [FOLDER / "README.md", FOLDER.parent / "README.md"]
SAMPLES = [
    pytest.param(code, id=f"{document.parent.name}-{number}")
    for document in DOCUMENTS
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL))
]


@pytest.fixture
def addresses():
    """What the addresses of the samples are replaced with."""
    kafka = FakeKafka()
    service = FakeService(kafka, lambda body: None)
    yield {
        "http://flagstream:8082": os.environ.get("FLAGSTREAM_URL", "http://127.0.0.1:1"),
        "kafka:9092": kafka.servers,
        "redis://redis:6379": os.environ.get("CLIENT_REDIS_URL", "redis://127.0.0.1:1"),
        "feature-flag-replies-shop": REPLIES,
        '"bootstrap.servers": "' + kafka.servers + '"}': '"bootstrap.servers": "' + kafka.servers + '"}, "' + UPDATES + '"',
        "timeout=2": "timeout=0.2",
        ' token="fst_…"': "",
    }
    service.close()
    api.shutdown()
    api.clear_providers()


def test_there_are_samples():
    assert len(SAMPLES) >= 9


@pytest.mark.parametrize("code", SAMPLES)
def test_a_sample_runs(code, addresses):
    for written, replaced in addresses.items():
        code = code.replace(written, replaced)
    names = {}
    compiled = compile(code, "sample", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if compiled.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(compiled, names))
    else:
        exec(compiled, names)
    if "app" in names:
        with TestClient(names["app"]) as service:
            assert service.get("/dashboard").status_code == 200
    for value in names.values():
        if isinstance(value, Flags):
            value.close()


def test_samples_have_types(tmp_path):
    """Each sample as a function of a module that mypy checks."""
    pytest.importorskip("mypy")
    for number, sample in enumerate(SAMPLES):
        code = sample.values[0]
        if "@app." in code:
            # Its functions are those of the reader, who decides about their types.
            continue
        body = textwrap.indent(code, "    ")
        (tmp_path / f"sample_{number}.py").write_text(f"async def sample() -> None:\n{body}")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(FOLDER / "pyproject.toml"), "--cache-dir",
               str(tmp_path / "cache"), *map(str, sorted(tmp_path.glob("sample_*.py")))]
    environment = {**os.environ, "MYPYPATH": str(FOLDER / "src")}
    checked = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, env=environment)
    assert checked.returncode == 0, checked.stdout + checked.stderr
