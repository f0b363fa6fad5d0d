"""The calls that the client for asyncio and its mock have in common.

```text
 call ─► question ─► Core: steps (send, wait) ─► `_run` of the client or the mock ─► answer
```

[`Flags`](blocking_calls.py) has the same methods for code that blocks; a test compares the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack, overload

from .core import Core, Steps
from .evaluation import Context, Evaluation, JsonValue, Question, UserId, ValueType

T = TypeVar("T")
#: The type of a default, and of the value: the first of these that fits. A whole number as the default asks for a number,
#: and the value may have a fraction, so it counts as a `float`.
V = TypeVar("V", bool, str, float, dict[str, Any], list[Any])


class Who(TypedDict, total=False):
    """What a call may give beside the flags, the user and the context."""

    session_id: str
    environment: str


class Calls:
    """The methods that neither wait nor ask."""

    _core: Core

    def invalidate(self, version: int, environment: str | None = None) -> None:
        """Drops the cached answers that are older than this version (of all environments, if none is given)."""
        self._core.cache.invalidate(version, environment)

    def clear_cache(self) -> None:
        """Drops all cached answers."""
        self._core.cache.clear()

    def _question(self, user_id: UserId, context: Context | None, who: Who) -> Question:
        environment = who.get("environment") or self._core.settings.environment
        return Question(environment, user_id, who.get("session_id"), context)


class AsyncFlags(Calls, ABC):
    """What a `FeatureFlagClient` and a `MockFeatureFlagsClient` have in common: the type for code that takes either."""

    async def is_enabled(
        self,
        flag_name: str,
        user_id: UserId = None,
        default: bool = False,
        context: Context | None = None,
        **who: Unpack[Who],
    ) -> bool:
        """Evaluates a boolean flag.

        Returns `default` if the service does not answer, or if the flag's value is not a boolean. Never raises a
        `FlagstreamError`. `who` may have a `session_id`, and another `environment` than the client's.
        """
        return await self._run(self._core.is_enabled(flag_name, self._question(user_id, context, who), default))

    @overload
    async def evaluate_flag(
        self,
        flag_name: str,
        user_id: UserId = ...,
        default_value: None = ...,
        context: Context | None = ...,
        *,
        value_type: ValueType | None = ...,
        **who: Unpack[Who],
    ) -> JsonValue: ...
    @overload
    async def evaluate_flag(
        self,
        flag_name: str,
        user_id: UserId = ...,
        default_value: int = ...,
        context: Context | None = ...,
        *,
        value_type: Literal["integer"],
        **who: Unpack[Who],
    ) -> int: ...
    @overload
    async def evaluate_flag(
        self,
        flag_name: str,
        user_id: UserId = ...,
        default_value: V = ...,
        context: Context | None = ...,
        *,
        value_type: None = ...,
        **who: Unpack[Who],
    ) -> V: ...
    @overload
    async def evaluate_flag(
        self,
        flag_name: str,
        user_id: UserId = ...,
        default_value: T = ...,
        context: Context | None = ...,
        *,
        value_type: None = ...,
        **who: Unpack[Who],
    ) -> T: ...
    @overload
    async def evaluate_flag(
        self,
        flag_name: str,
        user_id: UserId = ...,
        default_value: JsonValue = ...,
        context: Context | None = ...,
        *,
        value_type: ValueType,
        **who: Unpack[Who],
    ) -> JsonValue: ...
    async def evaluate_flag(
        self,
        flag_name: str,
        user_id: UserId = None,
        default_value: Any = None,
        context: Context | None = None,
        *,
        value_type: ValueType | None = None,
        **who: Unpack[Who],
    ) -> Any:
        """Evaluates a flag and returns its value, which has the type of `default_value`.

        Returns `default_value` if the service does not answer, or if the flag's value has another type. Never raises
        a `FlagstreamError`. A default of 3 asks for a number, so the value may be 3.5; `value_type="integer"` asks for
        a whole one. Without a default, `value_type` says what to ask for, and the value is None where there is none.
        """
        question = self._question(user_id, context, who)
        return await self._run(self._core.value_or_default(flag_name, question, default_value, value_type))

    async def batch_evaluate(
        self,
        flag_names: Sequence[str],
        user_id: UserId = None,
        default: bool = False,
        context: Context | None = None,
        **who: Unpack[Who],
    ) -> dict[str, bool]:
        """Evaluates many boolean flags in one request; a flag without a boolean value has `default`.

        Never raises a `FlagstreamError`.
        """
        return await self._run(self._core.batch(flag_names, self._question(user_id, context, who), default))

    async def bulk_evaluate_flags(
        self,
        flag_names: Sequence[str],
        user_id: UserId = None,
        context: Context | None = None,
        *,
        default_values: Mapping[str, JsonValue] | None = None,
        value_types: Mapping[str, ValueType] | None = None,
        **who: Unpack[Who],
    ) -> dict[str, dict[str, JsonValue]]:
        """Evaluates many flags in one request, each with `value`, `enabled`, `variant`, `reason` and so on.

        Never raises a `FlagstreamError`: if the service does not answer, the values are the defaults and the reason
        is `ERROR`.
        """
        question = self._question(user_id, context, who)
        steps = self._core.bulk(flag_names, question, default_values or {}, value_types or {})
        return {flag: evaluation.as_dict() for flag, evaluation in (await self._run(steps)).items()}

    async def evaluate(
        self,
        flag_name: str,
        user_id: UserId = None,
        default_value: JsonValue = None,
        context: Context | None = None,
        *,
        value_type: ValueType | None = None,
        min_version: int | None = None,
        **who: Unpack[Who],
    ) -> Evaluation:
        """Evaluates a flag and returns the service's whole answer; raises a `FlagstreamError` if there is none.

        With `min_version`, the service waits until it has applied that version of its flags.
        """
        question = self._question(user_id, context, who)
        return await self._run(self._core.evaluate(flag_name, question, default_value, value_type, min_version))

    async def evaluate_many(
        self,
        flag_names: Sequence[str],
        user_id: UserId = None,
        context: Context | None = None,
        *,
        default_values: Mapping[str, JsonValue] | None = None,
        value_types: Mapping[str, ValueType] | None = None,
        min_version: int | None = None,
        **who: Unpack[Who],
    ) -> dict[str, Evaluation]:
        """Evaluates many flags in one request; raises a `FlagstreamError` if the service does not answer.

        With `min_version`, the service waits until it has applied that version of its flags.
        """
        question = self._question(user_id, context, who)
        steps = self._core.evaluate_many(flag_names, question, default_values or {}, value_types or {}, min_version)
        return await self._run(steps)

    @property
    @abstractmethod
    def is_following(self) -> bool:
        """Whether the client is connected to the stream of changes."""

    @abstractmethod
    async def wait_until_following(self, timeout: float | None = None) -> None:
        """Starts to follow changes and returns once connected; raises TimeoutError after `timeout` seconds."""

    @abstractmethod
    async def close(self) -> None:
        """Closes all connections. Later calls answer with their defaults."""

    @abstractmethod
    async def _run(self, steps: Steps[T]) -> T: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
