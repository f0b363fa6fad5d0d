"""The service with a mock of the flags, as its own tests would have it, and with a real flagstream."""

import os

import pytest
from app import app
from fastapi.testclient import TestClient
from flagstream_client import MockFeatureFlagsClient


@pytest.fixture
def service():
    with TestClient(app) as service:
        yield service


def test_with_a_mock(service):
    real, app.state.flags = app.state.flags, MockFeatureFlagsClient({"premium": True, "theme": "auto"})
    answer = service.get("/api/users/u/dashboard")
    app.state.flags = real
    assert answer.json() == {"template": "new_dashboard", "theme": "auto"}


@pytest.mark.skipif("FLAGSTREAM_URL" not in os.environ, reason="FLAGSTREAM_URL is not set")
def test_with_flagstream(service):
    assert service.get("/api/users/u/dashboard").json() == {"template": "old_dashboard", "theme": "dark"}
    premium = service.get("/api/users/u/dashboard", headers={"x-user": "u", "x-tier": "premium"})
    assert premium.json() == {"template": "new_dashboard", "theme": "dark"}
