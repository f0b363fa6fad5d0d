"""OpenFeature with flagstream: `pip install flagstream-client[openfeature]`.

>>> flags = SyncFeatureFlagClient("http://flagstream:8082", follow_changes=True)
>>> api.set_provider(FlagstreamProvider(flags))
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import BoundedSemaphore
from typing import Any, TypeVar

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagResolutionDetails, FlagValueType, Reason
from openfeature.hook import Hook, HookContext, HookHints
from openfeature.provider import AbstractProvider, Metadata
from openfeature.telemetry import create_evaluation_event
from openfeature.track import TrackingEventDetails

from .announcements import FlagChange
from .blocking_calls import Flags
from .calls import AsyncFlags
from .core import logger
from .errors import FlagstreamError, InvalidRequestError
from .evaluation import EVENT_MEMBERS, Evaluation, JsonValue, ValueType

__all__ = ["FlagstreamProvider", "TelemetryHook", "traceparent"]

NAME = "flagstream"
#: Tracking events that may wait to be sent.
MAX_TRACKED_COUNT = 1_000

T = TypeVar("T")
ObjectValue = Sequence[FlagValueType] | Mapping[str, FlagValueType]


class FlagstreamProvider(AbstractProvider):
    """OpenFeature's provider for flagstream, over HTTP or Kafka.

    Unlike OFREP it sends the requested type, so that a text `"5"` is a number where a number is asked for. Caching is that of
    the client. With `follow_changes` each change becomes the event `PROVIDER_CONFIGURATION_CHANGED`, and the provider is
    `STALE` while changes do not arrive.

    The targeting key is the user; `session_id` in the context is the session. A tracking event counts as a conversion in each
    running experiment that has a metric of its name, or only in that of its attribute `experiment`. Its other attributes
    are the metadata of the conversion, except for `value`, `eventId` and `occurredAt`.
    """

    def __init__(self, flags: Flags, async_flags: AsyncFlags | None = None) -> None:
        """Takes a client or a mock, which is closed when the provider is shut down.

        Calls of OpenFeature that are awaited use `async_flags`, which their owner closes. Without it they run `flags` on a
        thread.
        """
        super().__init__()
        self._flags = flags
        self._async_flags = async_flags
        self._subscriptions: list[Callable[[], None]] = []
        self._tracker: ThreadPoolExecutor | None = None
        self._tracked = BoundedSemaphore(MAX_TRACKED_COUNT)

    def get_metadata(self) -> Metadata:
        """The provider's name."""
        return Metadata(NAME)

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Starts to report changes."""
        if not self._subscriptions:
            self._subscriptions = [self._flags.on_change(self._changed), self._flags.on_following(self._following)]
            self._tracker = ThreadPoolExecutor(1, thread_name_prefix="flagstream-tracking")

    def shutdown(self) -> None:
        """Sends the tracking events that wait, and closes the client."""
        for unsubscribe in self._subscriptions:
            unsubscribe()
        self._subscriptions = []
        if self._tracker is not None:
            self._tracker.shutdown()
            self._tracker = None
        self._flags.close()

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Evaluates a boolean flag."""
        return self._resolve(flag_key, "boolean", default_value, evaluation_context, _boolean)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Evaluates a flag whose value is text."""
        return self._resolve(flag_key, "string", default_value, evaluation_context, _string)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Evaluates a flag whose value is a whole number."""
        return self._resolve(flag_key, "integer", default_value, evaluation_context, _integer)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Evaluates a flag whose value is a number."""
        return self._resolve(flag_key, "float", default_value, evaluation_context, _float)

    def resolve_object_details(
        self, flag_key: str, default_value: ObjectValue, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[ObjectValue]:
        """Evaluates a flag whose value is an object or a list."""
        return self._resolve(flag_key, "object", default_value, evaluation_context, _object)

    async def resolve_boolean_details_async(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Evaluates a boolean flag."""
        return await self._resolve_async(flag_key, "boolean", default_value, evaluation_context, _boolean)

    async def resolve_string_details_async(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Evaluates a flag whose value is text."""
        return await self._resolve_async(flag_key, "string", default_value, evaluation_context, _string)

    async def resolve_integer_details_async(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Evaluates a flag whose value is a whole number."""
        return await self._resolve_async(flag_key, "integer", default_value, evaluation_context, _integer)

    async def resolve_float_details_async(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Evaluates a flag whose value is a number."""
        return await self._resolve_async(flag_key, "float", default_value, evaluation_context, _float)

    async def resolve_object_details_async(
        self, flag_key: str, default_value: ObjectValue, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[ObjectValue]:
        """Evaluates a flag whose value is an object or a list."""
        return await self._resolve_async(flag_key, "object", default_value, evaluation_context, _object)

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """Reports a tracking event, without waiting for it. Failures are reported by the client."""
        user, _ = _subject(evaluation_context)
        details = tracking_event_details or TrackingEventDetails()
        experiment, event_id = details.attributes.get("experiment"), details.attributes.get("eventId")
        others = {name: _json(value) for name, value in details.attributes.items() if name not in EVENT_MEMBERS} or None

        def report() -> None:
            try:
                if isinstance(experiment, str):
                    known = event_id if isinstance(event_id, str) else None
                    self._flags.track_conversion(
                        experiment, user, tracking_event_name, details.value, event_id=known, metadata=others
                    )
                else:
                    self._flags.track(tracking_event_name, user, details.value, metadata=others)
            finally:
                self._tracked.release()

        tracker = self._tracker
        if tracker is None or not self._tracked.acquire(blocking=False):
            logger.warning("the tracking event %s is dropped: the provider is not ready, or too many wait", tracking_event_name)
            return
        tracker.submit(report)

    def _resolve(
        self, key: str, kind: ValueType, default: T, context: EvaluationContext | None, convert: Callable[[JsonValue], Any]
    ) -> FlagResolutionDetails[T]:
        user, attributes = _subject(context)
        try:
            answer = self._flags.evaluate(key, user, _json(default), attributes, value_type=kind)
        except FlagstreamError as error:
            return _failed(default, error)
        return _details(answer, default, convert)

    async def _resolve_async(
        self, key: str, kind: ValueType, default: T, context: EvaluationContext | None, convert: Callable[[JsonValue], Any]
    ) -> FlagResolutionDetails[T]:
        if self._async_flags is None:
            return await asyncio.to_thread(self._resolve, key, kind, default, context, convert)
        user, attributes = _subject(context)
        try:
            answer = await self._async_flags.evaluate(key, user, _json(default), attributes, value_type=kind)
        except FlagstreamError as error:
            return _failed(default, error)
        return _details(answer, default, convert)

    def _changed(self, change: FlagChange) -> None:
        names = [] if change.flag_name is None else [change.flag_name]
        metadata: dict[str, bool | str | int | float] = {"version": change.version}
        self.emit_provider_configuration_changed(ProviderEventDetails(names, change.event_type, metadata=metadata))

    def _following(self, is_following: bool) -> None:
        if is_following:
            self.emit_provider_ready(ProviderEventDetails(message="changes arrive"))
        else:
            message = "changes do not arrive: cached answers may be outdated"
            self.emit_provider_stale(ProviderEventDetails(message=message))


class TelemetryHook(Hook):
    """Adds each evaluation to the current span of OpenTelemetry, as an event with the names of its semantic conventions.

    It needs `opentelemetry-api`.
    """

    def finally_after(
        self, hook_context: HookContext, details: FlagEvaluationDetails[FlagValueType], hints: HookHints
    ) -> None:
        """Adds the event."""
        from opentelemetry import trace

        span = trace.get_current_span()
        if span.is_recording():
            event = create_evaluation_event(hook_context, details)
            span.add_event(event.name, {str(name): str(value) for name, value in event.attributes.items()})


def traceparent() -> str | None:
    """The W3C `traceparent` of the current span, for the option `traceparent` of the clients; None without a span.

    Events in Kafka then carry the trace of the call.
    """
    from opentelemetry import trace

    span = trace.get_current_span().get_span_context()
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}" if span.is_valid else None


def _details(answer: Evaluation, default: T, convert: Callable[[JsonValue], Any]) -> FlagResolutionDetails[T]:
    if answer.error_code is not None:
        code = ErrorCode.__members__.get(answer.error_code, ErrorCode.GENERAL)
        return FlagResolutionDetails(default, code, answer.error_message, Reason.ERROR)
    value = None if answer.value is None else convert(answer.value)
    if value is None and answer.value is not None:
        message = f"{answer.flag_name}: {answer.value!r} is no {type(default).__name__}"
        return FlagResolutionDetails(default, ErrorCode.TYPE_MISMATCH, message, Reason.ERROR)
    metadata: dict[str, bool | int | float | str] = {"enabled": answer.enabled, "flagsVersion": answer.flags_version}
    if answer.flag_version is not None:
        metadata["version"] = answer.flag_version
    reason = Reason.CACHED if answer.cached else answer.reason
    found: T = default if value is None else value
    return FlagResolutionDetails(found, reason=reason, variant=answer.variant, flag_metadata=metadata)


def _failed(default: T, error: FlagstreamError) -> FlagResolutionDetails[T]:
    code = ErrorCode.INVALID_CONTEXT if isinstance(error, InvalidRequestError) else ErrorCode.GENERAL
    return FlagResolutionDetails(default, code, str(error), Reason.ERROR)


def _subject(context: EvaluationContext | None) -> tuple[str | None, dict[str, JsonValue] | None]:
    if context is None:
        return None, None
    attributes = {name: _json(value) for name, value in context.attributes.items() if name != "targetingKey"}
    return context.targeting_key or None, attributes or None


def _json(value: Any) -> JsonValue:
    """A value of OpenFeature as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): _json(member) for name, member in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json(member) for member in value]
    return value


def _boolean(value: JsonValue) -> bool | None:
    return value if isinstance(value, bool) else None


def _string(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: JsonValue) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else None


def _float(value: JsonValue) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _object(value: JsonValue) -> Any:
    return value if isinstance(value, (dict, list)) else None
