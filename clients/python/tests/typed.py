"""Checked by mypy in test_types.py, not run: what a call returns for which default, and what is an error."""

from typing import Any, Literal, TypedDict, assert_type

from flagstream_client import (
    AsyncFlags,
    Evaluation,
    FeatureFlagClient,
    Flags,
    MockFeatureFlagsClient,
    MockSyncFeatureFlagsClient,
    SyncFeatureFlagClient,
    ValueType,
)


class Limits(TypedDict):
    requests: int


async def asynchronous(flags: AsyncFlags, theme: Literal["light", "dark"], perhaps: str | None, limits: Limits) -> None:
    assert_type(await flags.is_enabled("x", "u"), bool)
    assert_type(await flags.evaluate_flag("x", "u", False), bool)
    assert_type(await flags.evaluate_flag("x", "u", "light"), str)
    assert_type(await flags.evaluate_flag("x", 7, default_value="light", context={"plan": "pro"}, session_id="s"), str)
    assert_type(await flags.evaluate_flag("x", default_value=theme), str)
    assert_type(await flags.evaluate_flag("x", "u", 0.5), float)
    # A default of 3 asks for a number, which may have a fraction.
    assert_type(await flags.evaluate_flag("x", "u", 3), float)
    assert_type(await flags.evaluate_flag("x", "u", 3, value_type="integer"), int)
    assert_type(await flags.evaluate_flag("x", "u", {"a": 1}), dict[str, Any])
    assert_type(await flags.evaluate_flag("x", "u", ["a"]), list[Any])
    assert_type(await flags.evaluate_flag("x", "u", limits), Limits)
    assert_type(await flags.evaluate_flag("x", "u"), Any)
    assert_type(await flags.evaluate_flag("x", "u", None, value_type="string"), Any)
    assert_type(await flags.batch_evaluate(["x"], "u"), dict[str, bool])
    assert_type(await flags.bulk_evaluate_flags(["x"], default_values={"x": 1}), dict[str, dict[str, Any]])
    assert_type(await flags.evaluate("x", "u", "light", min_version=1), Evaluation)
    assert_type(await flags.evaluate_many(["x"], "u"), dict[str, Evaluation])
    assert_type(await flags.get_variant("x", "u", "none"), str)
    assert_type(await flags.track_conversion("e", "u", "m", 1.5, event_id="i", metadata={"plan": "gold", "items": 2}), bool)
    await flags.track_conversion("e", "u", "m", metadata="gold")  # type: ignore[arg-type]
    await flags.get_variant("x", "u", None)  # type: ignore[arg-type]
    await flags.evaluate_flag("x", "u", perhaps)
    await flags.is_enabled("x", default="on")  # type: ignore[arg-type]
    await flags.is_enabled("x", tenant="t")  # type: ignore[call-arg]
    await flags.evaluate_flag("x", "u", 3, value_type="int")  # type: ignore[call-overload]


def blocking(flags: Flags, theme: Literal["light", "dark"], limits: Limits, kind: ValueType) -> None:
    assert_type(flags.is_enabled("x", "u"), bool)
    assert_type(flags.evaluate_flag("x", "u", False), bool)
    assert_type(flags.evaluate_flag("x", "u", "light"), str)
    assert_type(flags.evaluate_flag("x", 7, default_value="light", context={"plan": "pro"}, session_id="s"), str)
    assert_type(flags.evaluate_flag("x", default_value=theme), str)
    assert_type(flags.evaluate_flag("x", "u", 0.5), float)
    assert_type(flags.evaluate_flag("x", "u", 3), float)
    assert_type(flags.evaluate_flag("x", "u", 3, value_type="integer"), int)
    assert_type(flags.evaluate_flag("x", "u", {"a": 1}), dict[str, Any])
    assert_type(flags.evaluate_flag("x", "u", ["a"]), list[Any])
    assert_type(flags.evaluate_flag("x", "u", limits), Limits)
    assert_type(flags.evaluate_flag("x", "u"), Any)
    assert_type(flags.evaluate_flag("x", "u", None, value_type=kind), Any)
    assert_type(flags.batch_evaluate(["x"], "u"), dict[str, bool])
    assert_type(flags.bulk_evaluate_flags(["x"], default_values={"x": 1}), dict[str, dict[str, Any]])
    assert_type(flags.evaluate("x", "u", "light", min_version=1), Evaluation)
    assert_type(flags.evaluate_many(["x"], "u"), dict[str, Evaluation])
    assert_type(flags.get_variant("x", "u", "none"), str)
    assert_type(flags.track("m", "u", 1.5, metadata={"plan": "gold"}), bool)
    flags.on_change(lambda change: print(change.flag_name, change.version))
    flags.evaluate_flag("x", "u", 3, value_type="int")  # type: ignore[call-overload]


async def clients_and_mocks() -> None:
    """A service that takes `AsyncFlags` or `Flags` takes the client and the mock."""
    asynchronous_ones: list[AsyncFlags] = [FeatureFlagClient("http://flagstream:8082"), MockFeatureFlagsClient({"x": True})]
    blocking_ones: list[Flags] = [SyncFeatureFlagClient("http://flagstream:8082"), MockSyncFeatureFlagsClient({"x": True})]
    assert_type(await MockFeatureFlagsClient().evaluate_flag("x", "u", "light"), str)
    assert_type(MockSyncFeatureFlagsClient().evaluate_flag("x", "u", "light"), str)
    async with FeatureFlagClient("http://flagstream:8082", "production", token="fst_x", retries=3) as client:  # type: ignore[call-arg]
        asynchronous_ones.append(client)
    asynchronous_ones.append(SyncFeatureFlagClient("http://flagstream:8082"))  # type: ignore[arg-type]
    blocking_ones.append(MockFeatureFlagsClient())  # type: ignore[arg-type]
