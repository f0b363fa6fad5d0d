"""Clients for tests of services: they answer with the values that they were given, and send nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from .announcements import FlagChange
from .blocking_calls import Flags
from .calls import AsyncFlags, Calls
from .core import Core
from .evaluation import Conversion, Evaluation, JsonValue, Metadata, Question, UserId, ValueType, event_metadata
from .options import Settings
from .overrides import given
from .steps import Steps

T = TypeVar("T")

#: Marks a flag that the mock did not have before.
_MISSING: JsonValue = object()


@dataclass(frozen=True)
class Tracked:
    """A metric that was reported without an experiment."""

    metric: str
    user_id: UserId
    value: float | None
    metadata: Metadata | None = field(default=None, hash=False)


class _MockCore(Core):
    """Answers each call from a dictionary, with values as they are there, of whatever type."""

    def __init__(self, flags: Mapping[str, JsonValue] | None) -> None:
        super().__init__(Settings())
        self.flags = dict(flags or {})
        self.asked: list[tuple[str, UserId]] = []
        self.exposures: list[tuple[str, UserId]] = []
        self.conversions: list[tuple[Conversion, UserId]] = []
        self.tracked: list[Tracked] = []
        self.versions = count(1)

    @property
    def address(self) -> str:
        return "mock"

    def ask(
        self, flag: str, question: Question, default: JsonValue, value_type: ValueType | None, min_version: int | None
    ) -> Steps[Evaluation]:
        yield from ()
        return self._answer(flag, question, default)

    def ask_many(
        self,
        flags: Sequence[str],
        question: Question,
        defaults: Mapping[str, JsonValue],
        value_types: Mapping[str, ValueType],
        min_version: int | None,
    ) -> Steps[dict[str, Evaluation]]:
        yield from ()
        return {flag: self._answer(flag, question, defaults.get(flag)) for flag in flags}

    def value_or_default(
        self, flag: str, question: Question, default: JsonValue, value_type: ValueType | None
    ) -> Steps[JsonValue]:
        return (yield from self.evaluate(flag, question, default, value_type, None)).value

    def is_enabled(self, flag: str, question: Question, default: bool) -> Steps[bool]:
        return bool((yield from self.evaluate(flag, question, default, None, None)).value)

    def batch(self, flags: Sequence[str], question: Question, default: bool) -> Steps[dict[str, bool]]:
        found = yield from self.evaluate_many(flags, question, dict.fromkeys(flags, default), {}, None)
        return {flag: bool(evaluation.value) for flag, evaluation in found.items()}

    def expose(self, flag: str, question: Question) -> Steps[None]:
        yield from ()
        self.exposures.append((flag, question.user_id))

    def convert(self, conversion: Conversion, question: Question) -> Steps[None]:
        yield from ()
        self.conversions.append((conversion, question.user_id))

    def send_metric(self, metric: str, question: Question, value: float | None, metadata: Metadata | None) -> Steps[None]:
        yield from ()
        event_metadata(metadata)
        self.tracked.append(Tracked(metric, question.user_id, value, metadata))

    def _answer(self, flag: str, question: Question, default: JsonValue) -> Evaluation:
        self.asked.append((flag, question.user_id))
        if flag not in self.flags:
            return Evaluation(flag, default, False, None, "DEFAULT", "FLAG_NOT_FOUND")
        return given(flag, self.flags[flag], question.environment)


class _Mock(Calls):
    """What both mocks have beside the calls."""

    def __init__(self, flags: Mapping[str, JsonValue] | None = None) -> None:
        """`flags` are the values by the flags' names. A flag that is not there has the default of the call."""
        self._core = self._answers = _MockCore(flags)
        self._is_following = True

    @property
    def flags(self) -> dict[str, JsonValue]:
        """The values by the flags' names. They may be changed at any time. Text is the variant as well."""
        return self._answers.flags

    @flags.setter
    def flags(self, flags: Mapping[str, JsonValue]) -> None:
        self._answers.flags = dict(flags)

    @property
    def asked(self) -> list[tuple[str, UserId]]:
        """Each flag and user that was asked for, in order."""
        return self._answers.asked

    @property
    def exposures(self) -> list[tuple[str, UserId]]:
        """The flag and user of each exposure that was reported, in order."""
        return self._answers.exposures

    @property
    def conversions(self) -> list[tuple[Conversion, UserId]]:
        """Each conversion that was reported with its user, in order."""
        return self._answers.conversions

    @property
    def tracked(self) -> list[Tracked]:
        """The metrics that were reported without an experiment, in order."""
        return self._answers.tracked

    def set(self, flag_name: str, value: JsonValue) -> None:
        """Sets a flag. This is a change, which listeners receive."""
        event_type = "FEATURE_FLAG_UPDATED" if flag_name in self.flags else "FEATURE_FLAG_CREATED"
        self.flags[flag_name] = value
        self._announce(event_type, flag_name)

    def remove(self, flag_name: str) -> None:
        """Removes a flag: calls get their defaults. This is a change, which listeners receive."""
        if self.flags.pop(flag_name, _MISSING) is not _MISSING:
            self._announce("FEATURE_FLAG_DELETED", flag_name)

    @contextlib.contextmanager
    def set_for(self, flag_name: str, value: JsonValue) -> Iterator[None]:
        """Sets a flag for the length of a `with` block."""
        before = self.flags.get(flag_name, _MISSING)
        self.set(flag_name, value)
        try:
            yield
        finally:
            if before is _MISSING:
                self.remove(flag_name)
            else:
                self.set(flag_name, before)

    def set_following(self, is_following: bool) -> None:
        """Sets whether changes arrive, which listeners receive."""
        self._is_following = is_following
        self._core.following.notify(is_following)

    @property
    def is_following(self) -> bool:
        """True, unless `set_following` has changed it."""
        return self._is_following

    def _announce(self, event_type: str, flag_name: str) -> None:
        self._core.change(FlagChange(event_type, flag_name, None, next(self._answers.versions)))


class MockFeatureFlagsClient(_Mock, AsyncFlags):
    """In place of a `FeatureFlagClient`: `MockFeatureFlagsClient({"new_ui": True, "theme": "dark"})`."""

    async def wait_until_following(self, timeout: float | None = None) -> None:
        """Returns at once."""

    async def close(self) -> None:
        """Does nothing: nothing is open."""

    async def _run(self, steps: Steps[T]) -> T:
        return _result(steps)


class MockSyncFeatureFlagsClient(_Mock, Flags):
    """In place of a `SyncFeatureFlagClient`: the same mock, with calls that are not awaited."""

    def wait_until_following(self, timeout: float | None = None) -> None:
        """Returns at once."""

    def close(self) -> None:
        """Does nothing: nothing is open."""

    def _run(self, steps: Steps[T]) -> T:
        return _result(steps)


def _result(steps: Steps[T]) -> T:
    """The result of steps that send nothing."""
    try:
        step = next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError(f"a mock sends nothing: {step}")
