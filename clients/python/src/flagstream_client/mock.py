"""A client for tests of services: says what it was told, asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .evaluation import Context, Evaluation, JsonValue


class MockFeatureFlagsClient:
    """`MockFeatureFlagsClient({"new_ui": True, "theme": "dark"})`; `flags` may be changed at any time.

    Unknown flags get the default. `asked` has every flag and user asked for, in order.
    """

    def __init__(self, flags: Mapping[str, JsonValue] | None = None) -> None:
        self.flags = dict(flags or {})
        self.asked: list[tuple[str, str | int | None]] = []

    async def is_enabled(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default: bool = False,
        context: Context | None = None,
        **who: str,
    ) -> bool:
        return bool(self._say(flag_name, user_id, default).value)

    async def evaluate_flag(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default_value: JsonValue = None,
        context: Context | None = None,
        **who: str,
    ) -> JsonValue:
        return self._say(flag_name, user_id, default_value).value

    async def batch_evaluate(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        default: bool = False,
        context: Context | None = None,
        **who: str,
    ) -> dict[str, bool]:
        return {flag: bool(self._say(flag, user_id, default).value) for flag in flag_names}

    async def bulk_evaluate_flags(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        context: Context | None = None,
        *,
        default_values: Mapping[str, JsonValue] | None = None,
        **who: JsonValue,
    ) -> dict[str, dict[str, JsonValue]]:
        defaults = default_values or {}
        return {flag: self._say(flag, user_id, defaults.get(flag)).as_dict() for flag in flag_names}

    async def evaluate(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default_value: JsonValue = None,
        context: Context | None = None,
        **who: JsonValue,
    ) -> Evaluation:
        return self._say(flag_name, user_id, default_value)

    async def close(self) -> None:
        """Nothing is open."""

    def _say(self, flag: str, user_id: str | int | None, default: JsonValue) -> Evaluation:
        self.asked.append((flag, user_id))
        if flag not in self.flags:
            return Evaluation(flag, default, False, None, "DEFAULT", "FLAG_NOT_FOUND")
        value = self.flags[flag]
        return Evaluation(flag, value, value is not False, None, "TARGETING_MATCH")
