"""The calls that the client for asyncio and its mock have in common.

```text
 call ─► question ─► Core: steps ─► `_run` of the client or the mock ─► answer
```

[`Flags`](blocking_calls.py) has the same methods for code that blocks; a test compares the two.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack, overload

from .announcements import RESET, UPDATED, FlagChange
from .core import Core
from .evaluation import Context, Conversion, Evaluation, JsonValue, Metadata, Question, UserId, ValueType
from .steps import Steps

T = TypeVar("T")
#: The type of a default, and of the value: the first of these that fits. A whole number as the default asks for a number,
#: and the value may have a fraction, so it counts as a `float`.
V = TypeVar("V", bool, str, float, dict[str, Any], list[Any])


class Who(TypedDict, total=False):
    """What a call may give beside the flags, the user and the context."""

    session_id: str
    environment: str


def _in_loop(listener: Callable[[Any], object]) -> Callable[[Any], object]:
    """A coroutine function as one that starts it in the running event loop, from any thread."""
    if not inspect.iscoroutinefunction(listener):
        return listener
    loop = asyncio.get_running_loop()
    return lambda what: asyncio.run_coroutine_threadsafe(listener(what), loop)


class Calls:
    """The methods that neither wait nor ask."""

    _core: Core

    def invalidate(self, version: int, environment: str | None = None, flag_name: str | None = None) -> None:
        """Makes cached answers older than a change unusable, and reports the change to the listeners.

        Without an environment the change counts for all of them, without a flag for all flags. Pass the flag for values
        that flagstream wrote to Redis; all other answers are compared with the changes of their whole environment.
        """
        self._core.change(FlagChange(RESET if flag_name is None else UPDATED, flag_name, environment, version))

    def clear_cache(self) -> None:
        """Drops all cached answers."""
        self._core.cache.clear()

    def on_change(self, listener: Callable[[FlagChange], object]) -> Callable[[], None]:
        """Registers a listener for changes of flags; calling the result removes it.

        Changes arrive with `follow_changes`, with `KafkaInvalidations` and through `invalidate`, after the caches were
        invalidated. A function is called on a thread or in the event loop of the client, and must not block. A coroutine
        function runs in the event loop in which it was registered.
        """
        return self._core.changes.add(_in_loop(listener))

    def register_invalidation_callback(self, callback: Callable[[str | None], object]) -> Callable[[], None]:
        """Registers a function that receives the name of each flag that changes, None if any may have changed.

        Otherwise it is as `on_change`; calling the result removes it.
        """
        call = _in_loop(callback)
        return self._core.changes.add(lambda change: call(change.flag_name))

    def on_following(self, listener: Callable[[bool], object]) -> Callable[[], None]:
        """Registers a listener for the connection to the source of changes; calling the result removes it.

        It receives True when changes arrive, and False when they no longer do. Otherwise it is as `on_change`.
        """
        return self._core.following.add(_in_loop(listener))

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

    async def get_variant(
        self,
        flag_name: str,
        user_id: UserId,
        default_variant: str,
        context: Context | None = None,
        **who: Unpack[Who],
    ) -> str:
        """Returns the name of the variant of a flag or of an experiment.

        Returns `default_variant` if the flag has none for the user, or if the service does not answer. Never raises a
        `FlagstreamError`.
        """
        return await self._run(self._core.variant(flag_name, self._question(user_id, context, who), default_variant))

    async def track_exposure(
        self, flag_name: str, user_id: UserId, context: Context | None = None, **who: Unpack[Who]
    ) -> bool:
        """Reports that a user saw the variant of an experiment; returns whether the report was accepted.

        It evaluates the flag without a cache, because exposures are counted from evaluations. Each user counts once,
        however often this is called. A failure is logged, or given to `on_error`.
        """
        question = self._question(user_id, context, who)
        return await self._run(self._core.report(self._core.expose(flag_name, question), question, flag_name))

    async def track_conversion(
        self,
        experiment: str,
        user_id: UserId,
        metric: str,
        value: float | None = None,
        *,
        event_id: str | None = None,
        occurred_at: datetime | None = None,
        metadata: Metadata | None = None,
        environment: str | None = None,
    ) -> bool:
        """Reports a conversion; returns whether the report was accepted. The token needs the scope `track`.

        A conversion that has the `event_id` of an earlier one is not counted again. Without `occurred_at` the time of
        the report counts. `metadata` has further properties, which can be dimensions of the experiment's results. A
        failure is logged, or given to `on_error`.
        """
        question = self._question(user_id, None, {"environment": environment} if environment else {})
        known = {"event_id": event_id} if event_id else {}
        conversion = Conversion(experiment, metric, value, **known, occurred_at=occurred_at, metadata=metadata)
        return await self._run(self._core.report(self._core.convert(conversion, question), question, metric))

    async def track(
        self,
        metric: str,
        user_id: UserId,
        value: float | None = None,
        *,
        metadata: Metadata | None = None,
        environment: str | None = None,
    ) -> bool:
        """Reports what a user did, for every running experiment that has a metric of this name (experimental).

        Returns whether the report was accepted. Only clients over HTTP support it. `metadata` is that of the
        conversions; it cannot have the members `value`, `experiment`, `eventId` and `occurredAt`, which are the event's
        own. A failure is logged, or given to `on_error`.
        """
        question = self._question(user_id, None, {"environment": environment} if environment else {})
        return await self._run(self._core.report(self._core.send_metric(metric, question, value, metadata), question, metric))

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
