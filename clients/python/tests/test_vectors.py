"""The table that the clients of all languages share."""

import time
from datetime import datetime

import pytest
from conftest import VECTORS
from flagstream_client import FlagstreamError
from flagstream_client.announcements import parse_change, parse_json
from live import PATIENT
from scripted import ScriptedServer, check_requests

NAMES = {"timeout_s": "timeout", "attempt_timeout_s": "attempt_timeout", "recovery_timeout_s": "recovery_timeout",
         "cache_ttl_s": "cache_ttl"}


class Clock:
    ahead_s = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead_s


def check(expected, said):
    if isinstance(expected, dict) and isinstance(said, dict):
        for name, value in expected.items():
            check(value, said[name])
    else:
        assert said == expected and type(said) is type(expected)


def check_error(expected, error):
    assert error.kind == expected["kind"], error
    for name in ("status", "detail", "retry_after_s"):
        if name in expected:
            assert getattr(error, name) == expected[name]
    if "fields" in expected:
        assert [field.field for field in error.errors] == expected["fields"]
        assert all(field.message for field in error.errors)


def call(client, step):
    method = getattr(client, step["call"])
    who = {name: step[name] for name in ("user_id", "session_id", "context", "environment", "value_type", "min_version")
           if name in step}
    match step["call"]:
        case "is_enabled":
            return method(step["flag"], default=step["default"], **who)
        case "evaluate_flag":
            return method(step["flag"], default_value=step["default"], **who)
        case "batch_evaluate":
            return method(step["flags"], default=step["default"], **who)
        case "bulk_evaluate_flags":
            return method(step["flags"], default_values=step["default_values"], **who)
        case "evaluate":
            return method(step["flag"], default_value=step["default"], **who).as_dict()
        case "track_conversion":
            when = datetime.fromisoformat(step["occurred_at"])
            return method(step["experiment"], who.pop("user_id", None), step["metric"], step.get("value"), occurred_at=when,
                          event_id=step["event_id"], metadata=step.get("metadata"), **who)
        case "track":
            return method(step["metric"], step["user_id"], metadata=step["metadata"])
    raise AssertionError(step)


@pytest.mark.parametrize("case", VECTORS["scripted"], ids=lambda case: case["name"])
def test_scripted(case, make):
    clock = Clock()
    options = {NAMES.get(name, name): value for name, value in case.get("options", {}).items()}
    with ScriptedServer(VECTORS["answer"], case["answers"]) as server:
        client = make(server.url, **{"backoff_base": 0.001, "clock": clock, **options})
        for step in case["steps"]:
            if "advance_s" in step:
                clock.ahead_s += step["advance_s"]
            elif told := step.get("invalidate"):
                client.invalidate(told["version"], told.get("environment"))
            elif "clear_cache" in step:
                client.clear_cache()
            elif "message" in step:
                change = parse_change(parse_json(step["message"]))
                assert (change is not None) == step["is_change"], step
                if change is not None:
                    client._core.change(change)
            elif "error" in step:
                with pytest.raises(FlagstreamError) as raised:
                    call(client, step)
                check_error(step["error"], raised.value)
            else:
                said = call(client, step)
                check(step["expect"], said)
                assert not isinstance(said, dict) or list(said)[: len(step["expect"])] == list(step["expect"]) or \
                    step["call"] == "evaluate"
        check_requests(case["requests"], server.requests)


@pytest.mark.parametrize("case", VECTORS["live"], ids=lambda case: f"{case['flag']} for {case['user_id']}")
def test_live(case, make, url):
    client = make(url, "production", **PATIENT)
    step = {"call": "evaluate", **case}
    if "error" in case:
        with pytest.raises(FlagstreamError) as raised:
            call(client, step)
        check_error(case["error"], raised.value)
        assert call(client, {**step, "call": "evaluate_flag"}) == case["value"]
    else:
        check(case["expect"], call(client, step))


def test_live_many(make, url):
    cases = [case for case in VECTORS["live"] if {"flag", "user_id", "default", "expect"} == set(case) and case["user_id"] == "u"]
    asked = {case["flag"]: case for case in cases[:6]}
    defaults = {flag: case["default"] for flag, case in asked.items()}
    said = make(url, "production", **PATIENT).bulk_evaluate_flags(list(asked), "u", default_values=defaults)
    assert list(said) == list(asked)
    for flag, case in asked.items():
        check(case["expect"], said[flag])
