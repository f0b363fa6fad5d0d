"""What both clients do, without input and output: which requests to send, when to wait, what to make of answers.

Each method is a generator that yields [`Send`] and [`Wait`]; the client that drives it does these in its own way.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias, TypeVar

from .breaker import Breaker
from .cache import Cache
from .errors import CircuitOpenError, ConnectionFailedError, FlagstreamError, InvalidAnswerError, TimedOutError, error_of
from .evaluation import (
    MANY_PATH,
    ONE_PATH,
    Evaluation,
    JsonValue,
    Question,
    ValueType,
    boolean,
    encode,
    failed,
    like,
    many,
    named,
    one,
)
from .options import Settings

#: Larger answers are refused. The service's own are at most about half of it.
MAX_ANSWER_BYTES = 32 << 20
#: Combinations of environment and error code that are warned of, each once.
MAX_WARNINGS_COUNT = 100

logger = logging.getLogger("flagstream_client")


@dataclass(frozen=True)
class Send:
    """Post this, and send back the [`Reply`] or throw what became of it."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    timeout_s: float


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


T = TypeVar("T")
Steps: TypeAlias = Generator[Send | Wait, Reply | None, T]


class Core:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        entries = settings.cache_max_entries if settings.cache or settings.follow_changes else 0
        self.cache = Cache(entries, settings.cache_ttl, settings.clock)
        self.breaker = Breaker(settings.failure_threshold, settings.recovery_timeout, settings.clock)
        self._warned: set[tuple[str | None, str | None]] = set()

    def evaluate(
        self, flag: str, question: Question, default: JsonValue, value_type: ValueType | None, min_version: int | None
    ) -> Steps[Evaluation]:
        key = question.key(flag, default, value_type)
        kept = self.cache.get(key)
        if kept is not None and kept.flags_version >= (min_version or 0):
            return named(kept, flag)
        asked = {"flag_name": flag, "default_value": default, "value_type": value_type}
        body = question.body() | {name: value for name, value in asked.items() if value is not None}
        evaluation = one((yield from self._exchange(ONE_PATH, body, min_version)))
        self._warn(evaluation)
        self.cache.put(key, evaluation)
        return evaluation

    def evaluate_many(
        self,
        flags: Sequence[str],
        question: Question,
        defaults: Mapping[str, JsonValue],
        value_types: Mapping[str, ValueType],
        min_version: int | None,
    ) -> Steps[dict[str, Evaluation]]:
        keys = {flag: question.key(flag, defaults.get(flag), value_types.get(flag)) for flag in flags}
        found = self._kept(keys, min_version)
        missing = [flag for flag in keys if flag not in found]
        if missing:
            body: dict[str, JsonValue] = {"flag_names": missing, **question.body()}
            for member, values in (("default_values", defaults), ("value_types", value_types)):
                if given := {flag: values[flag] for flag in missing if values.get(flag) is not None}:
                    body[member] = given
            answers = many((yield from self._exchange(MANY_PATH, body, min_version)), missing)
            for flag, evaluation in answers.items():
                self._warn(evaluation)
                self.cache.put(keys[flag], evaluation)
            found |= answers
        return {flag: found[flag] for flag in keys}

    def value_or_default(
        self, flag: str, question: Question, default: JsonValue, value_type: ValueType | None
    ) -> Steps[JsonValue]:
        try:
            evaluation = yield from self.evaluate(flag, question, default, value_type, None)
            return evaluation.value if value_type is not None else like(evaluation, default)
        except FlagstreamError as error:
            self._hide(error, flag)
            return default

    def is_enabled(self, flag: str, question: Question, default: bool) -> Steps[bool]:
        try:
            return boolean((yield from self.evaluate(flag, question, default, None, None)))
        except FlagstreamError as error:
            self._hide(error, flag)
            return default

    def bulk(
        self, flags: Sequence[str], question: Question, defaults: Mapping[str, JsonValue], value_types: Mapping[str, ValueType]
    ) -> Steps[dict[str, Evaluation]]:
        try:
            return (yield from self.evaluate_many(flags, question, defaults, value_types, None))
        except FlagstreamError as error:
            self._hide(error, ", ".join(flags))
            return self._kept_or_failed(flags, question, defaults, value_types, error)

    def batch(self, flags: Sequence[str], question: Question, default: bool) -> Steps[dict[str, bool]]:
        found = yield from self.bulk(flags, question, dict.fromkeys(flags, default), {})
        said = {}
        for flag, evaluation in found.items():
            try:
                said[flag] = boolean(evaluation)
            except InvalidAnswerError as error:
                self._hide(error, flag)
                said[flag] = default
        return said

    def _kept(self, keys: Mapping[str, bytes], min_version: int | None) -> dict[str, Evaluation]:
        kept = ((flag, self.cache.get(key)) for flag, key in keys.items())
        return {flag: named(e, flag) for flag, e in kept if e is not None and e.flags_version >= (min_version or 0)}

    def _kept_or_failed(
        self,
        flags: Sequence[str],
        question: Question,
        defaults: Mapping[str, JsonValue],
        value_types: Mapping[str, ValueType],
        error: FlagstreamError,
    ) -> dict[str, Evaluation]:
        try:
            kept = self._kept({f: question.key(f, defaults.get(f), value_types.get(f)) for f in flags}, None)
        except FlagstreamError:
            kept = {}
        return {flag: kept.get(flag) or failed(flag, defaults.get(flag), error) for flag in flags}

    def _exchange(self, path: str, body: JsonValue, min_version: int | None) -> Steps[JsonValue]:
        encoded = encode(body)
        deadline = self.settings.clock() + self.settings.timeout
        # An instance that has not heard of a change yet waits for it. If it takes too long, an older answer,
        # which is not kept, is better than none: retries don't ask for it.
        wanted = max(min_version or 0, self.cache.newest or 0)
        for attempt in count():
            try:
                return (yield from self._attempt(path, encoded, wanted, deadline))
            except FlagstreamError as error:
                pause = self._pause(attempt, error)
                is_late = self.settings.clock() + pause >= deadline
                if not error.is_passing or attempt >= self.settings.max_retries or is_late or self.breaker.is_open:
                    raise
            wanted = min_version or 0
            yield Wait(pause)
        raise AssertionError("counts for ever")

    def _attempt(self, path: str, body: bytes, wanted: int, deadline: float) -> Steps[JsonValue]:
        headers = {"if-flags-version": str(wanted)} if wanted else {}
        timeout_s = min(self.settings.attempt_timeout, deadline - self.settings.clock())
        self.breaker.enter()
        try:
            reply = yield Send(path, body, headers, timeout_s)
        except (ConnectionFailedError, TimedOutError):
            self.breaker.failed()
            raise
        except BaseException:
            self.breaker.abandoned()
            raise
        assert reply is not None
        if reply.status >= 500:
            self.breaker.failed()
        else:
            self.breaker.succeeded()
        if reply.status != 200:
            raise error_of(reply.status, reply.headers, reply.body)
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError) as error:
            raise InvalidAnswerError(f"not JSON: {error}", reply.status) from error

    def _pause(self, attempt: int, error: FlagstreamError) -> float:
        """Exponential with full jitter, so that clients don't come back together."""
        most = min(self.settings.backoff_cap, self.settings.backoff_base * 2**attempt)
        # Jitter needs no secrecy.
        return (getattr(error, "retry_after_s", None) or 0.0) + random.uniform(0, most)  # noqa: S311

    def _warn(self, evaluation: Evaluation) -> None:
        """The service has answered, with a default because of an error: once for each environment and code."""
        key = (evaluation.environment, evaluation.error_code)
        if evaluation.reason != "ERROR" or key in self._warned or len(self._warned) >= MAX_WARNINGS_COUNT:
            return
        self._warned.add(key)
        logger.warning(
            "%s in environment %s is answered with its default: %s: %s (logged once for this environment and code)",
            evaluation.flag_name,
            evaluation.environment,
            evaluation.error_code,
            evaluation.error_message,
        )

    def _hide(self, error: FlagstreamError, flags: str) -> None:
        if self.settings.on_error is not None:
            self.settings.on_error(error)
        else:
            # Whatever opened the circuit was logged.
            level = logging.DEBUG if isinstance(error, CircuitOpenError) else logging.WARNING
            logger.log(level, "%s answered with the default: %s: %s", flags, self.settings.base_url, error)
