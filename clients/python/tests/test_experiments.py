"""Variants, exposures and conversions over HTTP."""

import logging
from datetime import UTC, datetime

from conftest import VECTORS
from scripted import ScriptedServer


def test_the_variant_of_a_flag(make):
    bodies = [{"value": "one", "variant": "one"}, {"value": None, "variant": None}]
    with ScriptedServer(VECTORS["answer"], [{"body": body} for body in bodies]) as server:
        client = make(server.url, "production", max_retries=0)
        assert client.get_variant("checkout", "ann", "classic", {"plan": "pro"}) == "one"
        assert client.get_variant("checkout", "ann", "classic") == "classic"
        assert client.get_variant("checkout", "ann", "classic") == "classic", "the service does not answer"
    assert server.requests[0]["body"] == {"flag_name": "checkout", "user_id": "ann", "context": {"plan": "pro"},
                                          "environment": "production", "value_type": "string"}


def test_an_exposure_is_an_evaluation_without_a_cache(make):
    with ScriptedServer(VECTORS["answer"], [{"body": {"value": "one", "variant": "one"}}] * 3) as server:
        client = make(server.url, "production", cache=True)
        client.get_variant("checkout", "ann", "classic")
        assert client.track_exposure("checkout", "ann") and client.track_exposure("checkout", "ann")
        assert client.get_variant("checkout", "ann", "classic") == "one"
        assert [request["body"]["value_type"] for request in server.requests] == ["string"] * 3


def test_a_conversion_is_reported(make):
    accepted = {"status": 202}
    with ScriptedServer(VECTORS["answer"], [{"status": 503}, accepted, accepted]) as server:
        client = make(server.url, "pro/d", token="fst_x", backoff_base=0.001)
        when = datetime(2026, 1, 15, 11, 30, tzinfo=UTC)
        assert client.track_conversion("check out", "ann", "purchase", 12.5, event_id="order-77", occurred_at=when)
        assert client.track_conversion("e", 7, "view", environment="staging")
    first, again, second = server.requests
    assert first["path"] == "/api/v1/experiments/check%20out/conversions?environment=pro%2Fd"
    assert first["headers"]["authorization"] == "Bearer fst_x"
    assert first["body"] == again["body"] == {"user_id": "ann", "metric": "purchase", "value": 12.5,
                                              "occurred_at": "2026-01-15T11:30:00.000000Z", "event_id": "order-77"}
    assert second["path"] == "/api/v1/experiments/e/conversions?environment=staging"
    assert second["body"]["user_id"] == 7 and second["body"]["event_id"] and "value" not in second["body"]


def test_a_conversion_has_metadata(make):
    metadata = {"plan": "gold", "cart": {"items": [1, 2.5]}, "first": True, "coupon": None}
    refusal = {"status": 422, "problem": {"detail": "metadata: expected an object"}}
    errors = []
    with ScriptedServer(VECTORS["answer"], [{"status": 202}, {"status": 202}, refusal]) as server:
        client = make(server.url, on_error=errors.append)
        assert client.track_conversion("e", "ann", "purchase", metadata=metadata)
        assert client.track_conversion("e", "ann", "purchase", metadata={})
        assert not client.track_conversion("e", "ann", "purchase", metadata=["gold"]), "the service decides"
        assert not client.track_conversion("e", "ann", "purchase", metadata={"plan": float("nan")})
        assert not client.track_conversion("e", "ann", "purchase", metadata={"plan": object()})
    assert [request["body"]["metadata"] for request in server.requests] == [metadata, {}, ["gold"]]
    assert [(error.kind, error.status) for error in errors] == [("invalid_request", 422)] + [("invalid_request", None)] * 2
    assert "metadata" in str(errors[1])


def test_a_tracking_event_has_its_metadata_among_its_details(make):
    errors = []
    with ScriptedServer(VECTORS["answer"], [{"status": 202}]) as server:
        client = make(server.url, on_error=errors.append)
        assert client.track("purchase", "ann", 12.5, metadata={"plan": "gold"})
        assert not client.track("purchase", "ann", metadata={"plan": "gold", "experiment": "e", "eventId": "i"})
        assert not client.track("purchase", "ann", metadata=["plan"])
    details = server.requests[0]["body"]["trackingEventDetails"]
    assert details.pop("eventId") and details == {"value": 12.5, "plan": "gold"}
    assert [error.kind for error in errors] == ["invalid_request"] * 2 and "eventId, experiment" in str(errors[0])


def test_a_tracking_event_is_reported(make):
    with ScriptedServer(VECTORS["answer"], [{"status": 202}] * 2) as server:
        client = make(server.url, "production")
        assert client.track("purchase", "ann", 12.5) and client.track("view", "ann")
    first, second = server.requests
    assert first["path"] == "/ofrep/v1/track?environment=production"
    assert first["body"]["trackingEventName"] == "purchase" and first["body"]["context"] == {"targetingKey": "ann"}
    assert first["body"]["trackingEventDetails"]["value"] == 12.5
    assert list(second["body"]["trackingEventDetails"]) == ["eventId"]


def test_failures_of_reports_are_logged_or_given_to_on_error(make, caplog):
    errors = []
    with ScriptedServer(VECTORS["answer"], [{"status": 403}] * 3) as server, caplog.at_level(logging.WARNING):
        client = make(server.url, on_error=errors.append)
        assert not client.track_exposure("checkout", "ann")
        assert not client.track_conversion("checkout", "ann", "purchase")
        assert not client.track("purchase", "ann")
        assert not client.track("purchase", None) and not client.track_exposure("checkout", "")
        assert [error.kind for error in errors] == ["forbidden"] * 3 + ["invalid_request"] * 2
        assert len(server.requests) == 3 and caplog.text == ""
        make(server.url).track_conversion("checkout", None, "purchase")
    assert "a user is required" in caplog.text
