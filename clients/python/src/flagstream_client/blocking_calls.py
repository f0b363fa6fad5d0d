"""The calls that the client for code that blocks and its mock have in common: those of [`AsyncFlags`](calls.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Self, Unpack, overload

from .calls import Calls, T, V, Who
from .evaluation import Context, Conversion, Evaluation, JsonValue, Metadata, UserId, ValueType
from .steps import Steps


class Flags(Calls, ABC):
    """What a `SyncFeatureFlagClient` and a `MockSyncFeatureFlagsClient` have in common: the type for code that takes either."""

    def is_enabled(
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
        return self._run(self._core.is_enabled(flag_name, self._question(user_id, context, who), default))

    @overload
    def evaluate_flag(
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
    def evaluate_flag(
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
    def evaluate_flag(
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
    def evaluate_flag(
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
    def evaluate_flag(
        self,
        flag_name: str,
        user_id: UserId = ...,
        default_value: JsonValue = ...,
        context: Context | None = ...,
        *,
        value_type: ValueType,
        **who: Unpack[Who],
    ) -> JsonValue: ...
    def evaluate_flag(
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
        return self._run(self._core.value_or_default(flag_name, question, default_value, value_type))

    def batch_evaluate(
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
        return self._run(self._core.batch(flag_names, self._question(user_id, context, who), default))

    def bulk_evaluate_flags(
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
        return {flag: evaluation.as_dict() for flag, evaluation in self._run(steps).items()}

    def evaluate(
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
        return self._run(self._core.evaluate(flag_name, question, default_value, value_type, min_version))

    def evaluate_many(
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
        return self._run(steps)

    def get_variant(
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
        return self._run(self._core.variant(flag_name, self._question(user_id, context, who), default_variant))

    def track_exposure(
        self, flag_name: str, user_id: UserId, context: Context | None = None, **who: Unpack[Who]
    ) -> bool:
        """Reports that a user saw the variant of an experiment; returns whether the report was accepted.

        It evaluates the flag without a cache, because exposures are counted from evaluations. Each user counts once,
        however often this is called. A failure is logged, or given to `on_error`.
        """
        question = self._question(user_id, context, who)
        return self._run(self._core.report(self._core.expose(flag_name, question), question, flag_name))

    def track_conversion(
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
        return self._run(self._core.report(self._core.convert(conversion, question), question, metric))

    def track(
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
        return self._run(self._core.report(self._core.send_metric(metric, question, value, metadata), question, metric))

    @property
    @abstractmethod
    def is_following(self) -> bool:
        """Whether the client is connected to the stream of changes."""

    @abstractmethod
    def wait_until_following(self, timeout: float | None = None) -> None:
        """Returns once connected to the stream of changes; raises TimeoutError after `timeout` seconds."""

    @abstractmethod
    def close(self) -> None:
        """Closes all connections. Later calls answer with their defaults."""

    @abstractmethod
    def _run(self, steps: Steps[T]) -> T: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
