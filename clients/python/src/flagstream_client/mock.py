"""Clients for tests of services: they answer with what they were given, and ask nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from .evaluation import Context, Evaluation, JsonValue

#: Marks a flag that the mock did not have before.
_MISSING: JsonValue = object()


class _Mock:
    """What both mocks share. `flags` may be changed at any time; unknown flags get the default.

    `asked` has every flag and user asked for, in order.
    """

    def __init__(self, flags: Mapping[str, JsonValue] | None = None) -> None:
        self.flags = dict(flags or {})
        self.asked: list[tuple[str, str | int | None]] = []

    @contextlib.contextmanager
    def set_for(self, flag_name: str, value: JsonValue) -> Iterator[None]:
        """Sets a flag for the length of a `with` block."""
        before = self.flags.get(flag_name, _MISSING)
        self.flags[flag_name] = value
        try:
            yield
        finally:
            if before is _MISSING:
                self.flags.pop(flag_name, None)
            else:
                self.flags[flag_name] = before

    def invalidate(self, version: int, environment: str | None = None) -> None:
        """Nothing is cached."""

    def clear_cache(self) -> None:
        """Nothing is cached."""

    def _one(self, flag: str, user_id: str | int | None, default: JsonValue) -> Evaluation:
        self.asked.append((flag, user_id))
        if flag not in self.flags:
            return Evaluation(flag, default, False, None, "DEFAULT", "FLAG_NOT_FOUND")
        value = self.flags[flag]
        return Evaluation(flag, value, value is not False, None, "TARGETING_MATCH")

    def _many(
        self, flags: Sequence[str], user_id: str | int | None, defaults: Mapping[str, JsonValue] | None
    ) -> dict[str, Evaluation]:
        return {flag: self._one(flag, user_id, (defaults or {}).get(flag)) for flag in flags}

    def _booleans(self, flags: Sequence[str], user_id: str | int | None, default: bool) -> dict[str, bool]:
        return {flag: bool(self._one(flag, user_id, default).value) for flag in flags}


class MockFeatureFlagsClient(_Mock):
    """In place of a `FeatureFlagClient`: `MockFeatureFlagsClient({"new_ui": True, "theme": "dark"})`."""

    async def is_enabled(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default: bool = False,
        context: Context | None = None,
        **who: str,
    ) -> bool:
        return bool(self._one(flag_name, user_id, default).value)

    async def evaluate_flag(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default_value: JsonValue = None,
        context: Context | None = None,
        **who: str,
    ) -> JsonValue:
        return self._one(flag_name, user_id, default_value).value

    async def batch_evaluate(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        default: bool = False,
        context: Context | None = None,
        **who: str,
    ) -> dict[str, bool]:
        return self._booleans(flag_names, user_id, default)

    async def bulk_evaluate_flags(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        context: Context | None = None,
        *,
        default_values: Mapping[str, JsonValue] | None = None,
        **who: JsonValue,
    ) -> dict[str, dict[str, JsonValue]]:
        many = self._many(flag_names, user_id, default_values)
        return {flag: evaluation.as_dict() for flag, evaluation in many.items()}

    async def evaluate(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default_value: JsonValue = None,
        context: Context | None = None,
        **who: JsonValue,
    ) -> Evaluation:
        return self._one(flag_name, user_id, default_value)

    async def evaluate_many(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        context: Context | None = None,
        *,
        default_values: Mapping[str, JsonValue] | None = None,
        **who: JsonValue,
    ) -> dict[str, Evaluation]:
        return self._many(flag_names, user_id, default_values)

    async def close(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None


class MockSyncFeatureFlagsClient(_Mock):
    """In place of a `SyncFeatureFlagClient`, with calls that are not awaited."""

    def is_enabled(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default: bool = False,
        context: Context | None = None,
        **who: str,
    ) -> bool:
        return bool(self._one(flag_name, user_id, default).value)

    def evaluate_flag(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default_value: JsonValue = None,
        context: Context | None = None,
        **who: str,
    ) -> JsonValue:
        return self._one(flag_name, user_id, default_value).value

    def batch_evaluate(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        default: bool = False,
        context: Context | None = None,
        **who: str,
    ) -> dict[str, bool]:
        return self._booleans(flag_names, user_id, default)

    def bulk_evaluate_flags(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        context: Context | None = None,
        *,
        default_values: Mapping[str, JsonValue] | None = None,
        **who: JsonValue,
    ) -> dict[str, dict[str, JsonValue]]:
        many = self._many(flag_names, user_id, default_values)
        return {flag: evaluation.as_dict() for flag, evaluation in many.items()}

    def evaluate(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default_value: JsonValue = None,
        context: Context | None = None,
        **who: JsonValue,
    ) -> Evaluation:
        return self._one(flag_name, user_id, default_value)

    def evaluate_many(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        context: Context | None = None,
        *,
        default_values: Mapping[str, JsonValue] | None = None,
        **who: JsonValue,
    ) -> dict[str, Evaluation]:
        return self._many(flag_names, user_id, default_values)

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None
