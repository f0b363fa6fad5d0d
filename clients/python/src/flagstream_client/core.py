"""What all clients do, however they reach the service: defaults, caches, warnings, listeners.

Each method that asks is a generator of [steps](steps.py), without input and output.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from .announcements import FlagChange
from .breaker import Breaker
from .cache import AnswerCache
from .errors import CircuitOpenError, FlagstreamError, InvalidAnswerError, InvalidRequestError
from .evaluation import Conversion, Evaluation, JsonValue, Metadata, Question, ValueType, boolean, cached, failed, like
from .listeners import Listeners
from .options import Settings
from .overrides import overridden
from .steps import Steps

#: Combinations of environment and error code that are warned of, each once.
MAX_WARNINGS_COUNT = 100

logger = logging.getLogger("flagstream_client")


class Core(ABC):
    """The logic of a client."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cache = AnswerCache(settings)
        self.breaker = Breaker(settings.failure_threshold, settings.recovery_timeout, settings.clock)
        self.changes: Listeners[FlagChange] = Listeners()
        self.following: Listeners[bool] = Listeners()
        self._warned: set[tuple[str | None, str | None]] = set()

    @property
    @abstractmethod
    def address(self) -> str:
        """Where the service is, for the log."""

    @abstractmethod
    def ask(
        self, flag: str, question: Question, default: JsonValue, value_type: ValueType | None, min_version: int | None
    ) -> Steps[Evaluation]:
        """Asks the service about one flag."""

    @abstractmethod
    def ask_many(
        self,
        flags: Sequence[str],
        question: Question,
        defaults: Mapping[str, JsonValue],
        value_types: Mapping[str, ValueType],
        min_version: int | None,
    ) -> Steps[dict[str, Evaluation]]:
        """Asks the service about many flags, at least one."""

    @abstractmethod
    def convert(self, conversion: Conversion, question: Question) -> Steps[None]:
        """Sends a conversion of a question that has a user."""

    @abstractmethod
    def send_metric(self, metric: str, question: Question, value: float | None, metadata: Metadata | None) -> Steps[None]:
        """Sends a tracking event of a question that has a user."""

    def expose(self, flag: str, question: Question) -> Steps[None]:
        """Evaluates a flag of an experiment, whatever the cache has."""
        yield from self.ask(flag, question, None, "string", None)

    def evaluate(
        self, flag: str, question: Question, default: JsonValue, value_type: ValueType | None, min_version: int | None
    ) -> Steps[Evaluation]:
        if (override := overridden(flag, question.environment)) is not None:
            return override
        if not self.cache.is_on:
            evaluation = yield from self.ask(flag, question, default, value_type, min_version)
            self._warn(evaluation)
            return evaluation
        key = question.key(flag, default, value_type)
        kept = self.cache.get(key)
        if kept is not None and kept.flags_version >= (min_version or 0):
            return cached(kept, flag)
        evaluation = yield from self.ask(flag, question, default, value_type, min_version)
        yield from self._take(question, [(key, evaluation, default, value_type)])
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
        found = self._kept(keys, question, min_version)
        missing = [flag for flag in keys if flag not in found]
        if missing:
            answers = yield from self.ask_many(missing, question, defaults, value_types, min_version)
            taken = [(keys[flag], e, defaults.get(flag), value_types.get(flag)) for flag, e in answers.items()]
            yield from self._take(question, taken)
            found |= answers
        return {flag: found[flag] for flag in keys}

    def value_or_default(
        self, flag: str, question: Question, default: JsonValue, value_type: ValueType | None
    ) -> Steps[JsonValue]:
        try:
            evaluation = yield from self.evaluate(flag, question, default, value_type, None)
            return evaluation.value if value_type is not None else like(evaluation, default)
        except FlagstreamError as error:
            self.hide(error, flag)
            return default

    def is_enabled(self, flag: str, question: Question, default: bool) -> Steps[bool]:
        try:
            if self.cache.has_redis and question.is_plain:
                found = yield from self._booleans([flag], question, default)
                return boolean(found[flag])
            return boolean((yield from self.evaluate(flag, question, default, None, None)))
        except FlagstreamError as error:
            self.hide(error, flag)
            return default

    def bulk(
        self, flags: Sequence[str], question: Question, defaults: Mapping[str, JsonValue], value_types: Mapping[str, ValueType]
    ) -> Steps[dict[str, Evaluation]]:
        try:
            return (yield from self.evaluate_many(flags, question, defaults, value_types, None))
        except FlagstreamError as error:
            self.hide(error, ", ".join(flags))
            return self._kept_or_failed(flags, question, defaults, value_types, error)

    def batch(self, flags: Sequence[str], question: Question, default: bool) -> Steps[dict[str, bool]]:
        defaults = dict.fromkeys(flags, default)
        if self.cache.has_redis and question.is_plain:
            try:
                found = yield from self._booleans(list(defaults), question, default)
            except FlagstreamError as error:
                self.hide(error, ", ".join(flags))
                found = self._kept_or_failed(flags, question, defaults, {}, error)
        else:
            found = yield from self.bulk(flags, question, defaults, {})
        values = {}
        for flag, evaluation in found.items():
            try:
                values[flag] = boolean(evaluation)
            except InvalidAnswerError as error:
                self.hide(error, flag)
                values[flag] = default
        return values

    def variant(self, flag: str, question: Question, default: str) -> Steps[str]:
        try:
            # Every variant is a string, so the type always fits.
            evaluation = yield from self.evaluate(flag, question, None, "string", None)
        except FlagstreamError as error:
            self.hide(error, flag)
            return default
        return default if evaluation.variant is None else evaluation.variant

    def report(self, steps: Steps[None], question: Question, what: str) -> Steps[bool]:
        """Runs the steps of a report; whether it was accepted. A failure is logged, or given to `on_error`."""
        try:
            if question.user_id is None or question.user_id == "":
                raise InvalidRequestError(f"{what}: a user is required")
            yield from steps
        except FlagstreamError as error:
            self.hide(error, what)
            return False
        finally:
            steps.close()
        return True

    def change(self, change: FlagChange) -> None:
        """Takes a change: the cache first, then the listeners."""
        self.cache.announce(change)
        self.changes.notify(change)

    def _booleans(self, flags: Sequence[str], question: Question, default: bool) -> Steps[dict[str, Evaluation]]:
        """Evaluates booleans of a user without context, with all layers of the cache."""
        keys = {flag: question.key(flag, default, None) for flag in flags if overridden(flag, None) is None}
        found = yield from self.cache.get_booleans(question, keys)
        found = {flag: cached(evaluation, flag) for flag, evaluation in found.items()}
        missing = [flag for flag in flags if flag not in found]
        if len(missing) == 1:
            found[missing[0]] = yield from self.evaluate(missing[0], question, default, None, None)
        elif missing:
            found |= yield from self.evaluate_many(missing, question, dict.fromkeys(missing, default), {}, None)
        return {flag: found[flag] for flag in flags}

    def _take(
        self, question: Question, answers: Iterable[tuple[bytes, Evaluation, JsonValue, ValueType | None]]
    ) -> Steps[None]:
        """Caches answers of the service."""
        booleans = []
        for key, evaluation, default, value_type in answers:
            self._warn(evaluation)
            self.cache.put(key, evaluation)
            if value_type in (None, "boolean") and (default is None or isinstance(default, bool)):
                booleans.append(evaluation)
        if booleans and self.cache.has_redis and question.is_plain:
            yield from self.cache.put_booleans(question, booleans)

    def _kept(self, keys: Mapping[str, bytes], question: Question, min_version: int | None) -> dict[str, Evaluation]:
        found = {}
        for flag, key in keys.items():
            override = overridden(flag, question.environment)
            kept = override or self.cache.get(key)
            if override is not None:
                found[flag] = override
            elif kept is not None and kept.flags_version >= (min_version or 0):
                found[flag] = cached(kept, flag)
        return found

    def _kept_or_failed(
        self,
        flags: Sequence[str],
        question: Question,
        defaults: Mapping[str, JsonValue],
        value_types: Mapping[str, ValueType],
        error: FlagstreamError,
    ) -> dict[str, Evaluation]:
        try:
            keys = {f: question.key(f, defaults.get(f), value_types.get(f)) for f in flags}
            kept = self._kept(keys, question, None)
        except FlagstreamError:
            kept = {}
        return {flag: kept.get(flag) or failed(flag, defaults.get(flag), error) for flag in flags}

    def _warn(self, evaluation: Evaluation) -> None:
        """Logs an answer with a default because of an error: once for each environment and code."""
        if evaluation.reason != "ERROR":
            return
        key = (evaluation.environment, evaluation.error_code)
        if key in self._warned or len(self._warned) >= MAX_WARNINGS_COUNT:
            return
        self._warned.add(key)
        logger.warning(
            "%s in environment %s is answered with its default: %s: %s (logged once for this environment and code)",
            evaluation.flag_name,
            evaluation.environment,
            evaluation.error_code,
            evaluation.error_message,
        )

    def hide(self, error: FlagstreamError, what: str) -> None:
        """Reports an error that the caller does not get."""
        if self.settings.on_error is not None:
            try:
                self.settings.on_error(error)
            except Exception:
                logger.exception("on_error failed")
        else:
            # What opened the circuit breaker was logged.
            level = logging.DEBUG if isinstance(error, CircuitOpenError) else logging.WARNING
            logger.log(level, "%s answered with the default: %s: %s", what, self.address, error)
