"""How a client over HTTP asks the service: requests, retries, circuit breaker."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from itertools import count
from urllib.parse import quote
from uuid import uuid4

from .core import Core
from .errors import ConnectionFailedError, FlagstreamError, InvalidAnswerError, TimedOutError, error_of
from .evaluation import (
    MANY_PATH,
    ONE_PATH,
    Conversion,
    Evaluation,
    JsonValue,
    Metadata,
    Question,
    ValueType,
    encode,
    event_metadata,
    many,
    one,
)
from .options import HttpSettings
from .steps import Reply, Send, Steps, Wait

#: Larger answers are refused. The service's own are at most about half of it.
MAX_ANSWER_BYTES = 32 << 20
TRACK_PATH = "/ofrep/v1/track"


class HttpCore(Core):
    """The logic of a client over HTTP."""

    settings: HttpSettings

    def __init__(self, settings: HttpSettings) -> None:
        super().__init__(settings)

    @property
    def address(self) -> str:
        return self.settings.base_url

    def ask(
        self, flag: str, question: Question, default: JsonValue, value_type: ValueType | None, min_version: int | None
    ) -> Steps[Evaluation]:
        return one((yield from self._exchange(ONE_PATH, one_body(flag, question, default, value_type), min_version)))

    def ask_many(
        self,
        flags: Sequence[str],
        question: Question,
        defaults: Mapping[str, JsonValue],
        value_types: Mapping[str, ValueType],
        min_version: int | None,
    ) -> Steps[dict[str, Evaluation]]:
        body = many_body(flags, question, defaults, value_types)
        return many((yield from self._exchange(MANY_PATH, body, min_version)), flags)

    def convert(self, conversion: Conversion, question: Question) -> Steps[None]:
        assert question.user_id is not None
        path = f"/api/v1/experiments/{quote(conversion.experiment, safe='')}/conversions" + _in(question)
        yield from self._exchange(path, conversion.body(question.user_id), None, accepted=202)

    def send_metric(self, metric: str, question: Question, value: float | None, metadata: Metadata | None) -> Steps[None]:
        # With an id, because a retry after a lost answer must not count twice.
        details = {"eventId": str(uuid4()), **({} if value is None else {"value": value}), **event_metadata(metadata)}
        context = {"targetingKey": question.user_id}
        body = {"trackingEventName": metric, "context": context, "trackingEventDetails": details}
        yield from self._exchange(TRACK_PATH + _in(question), body, None, accepted=202)

    def _exchange(self, path: str, body: JsonValue, min_version: int | None, accepted: int = 200) -> Steps[JsonValue]:
        encoded = encode(body)
        deadline = self.settings.clock() + self.settings.timeout
        # An instance that has not applied a change yet waits for it. If that takes too long, an older answer, which is
        # not cached, is better than none: retries do not ask for it.
        wanted = max(min_version or 0, self.cache.newest)
        for attempt in count():
            try:
                return (yield from self._attempt(path, encoded, wanted, deadline, accepted))
            except FlagstreamError as error:
                pause = self._pause(attempt, error)
                is_late = self.settings.clock() + pause >= deadline
                if not error.is_passing or attempt >= self.settings.max_retries or is_late or self.breaker.is_open:
                    raise
            wanted = min_version or 0
            yield Wait(pause)
        raise AssertionError("counts without end")

    def _attempt(self, path: str, body: bytes, wanted: int, deadline: float, accepted: int) -> Steps[JsonValue]:
        headers = {"if-flags-version": str(wanted)} if wanted else {}
        timeout_s = min(self.settings.attempt_timeout, deadline - self.settings.clock())
        self.breaker.enter()
        try:
            reply: Reply = yield Send(path, body, headers, timeout_s)
        except (ConnectionFailedError, TimedOutError):
            self.breaker.failed()
            raise
        except BaseException:
            self.breaker.abandoned()
            raise
        if reply.status >= 500:
            self.breaker.failed()
        else:
            self.breaker.succeeded()
        if reply.status not in (200, accepted):
            raise error_of(reply.status, reply.headers, reply.body)
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError) as error:
            raise InvalidAnswerError(f"not JSON: {error}", reply.status) from error

    def _pause(self, attempt: int, error: FlagstreamError) -> float:
        """Exponential with full jitter, so that clients do not come back together."""
        most = min(self.settings.backoff_cap, self.settings.backoff_base * 2**attempt)
        # Jitter needs no secrecy.
        return (getattr(error, "retry_after_s", None) or 0.0) + random.uniform(0, most)  # noqa: S311


def one_body(flag: str, question: Question, default: JsonValue, value_type: ValueType | None) -> dict[str, JsonValue]:
    """The members of a request for one flag."""
    body = {"flag_name": flag, **question.body()}
    if default is not None:
        body["default_value"] = default
    if value_type is not None:
        body["value_type"] = value_type
    return body


def many_body(
    flags: Sequence[str], question: Question, defaults: Mapping[str, JsonValue], value_types: Mapping[str, ValueType]
) -> dict[str, JsonValue]:
    """The members of a request for many flags."""
    body: dict[str, JsonValue] = {"flag_names": list(flags), **question.body()}
    for member, values in (("default_values", defaults), ("value_types", value_types)):
        if given := {flag: values[flag] for flag in flags if values.get(flag) is not None}:
            body[member] = given
    return body


def _in(question: Question) -> str:
    return f"?environment={quote(question.environment, safe='')}" if question.environment else ""
