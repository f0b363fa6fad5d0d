"""Clients for tests of services: they answer with the values they were given, and send nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from .blocking_calls import Flags
from .calls import AsyncFlags, Calls
from .core import Core, Steps
from .evaluation import Evaluation, JsonValue, Question, UserId, ValueType
from .options import Settings

T = TypeVar("T")

#: Marks a flag that the mock did not have before.
_MISSING: JsonValue = object()


class _MockCore(Core):
    """Answers each call from a dictionary, with values as they are there, of whatever type."""

    def __init__(self, flags: Mapping[str, JsonValue] | None) -> None:
        super().__init__(Settings(base_url="http://mock", environment=None, cache_ttl=0))
        self.flags = dict(flags or {})
        self.asked: list[tuple[str, UserId]] = []

    def evaluate(
        self, flag: str, question: Question, default: JsonValue, value_type: ValueType | None, min_version: int | None
    ) -> Steps[Evaluation]:
        yield from ()
        return self._answer(flag, question, default)

    def evaluate_many(
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
        yield from ()
        return self._answer(flag, question, default).value

    def is_enabled(self, flag: str, question: Question, default: bool) -> Steps[bool]:
        yield from ()
        return bool(self._answer(flag, question, default).value)

    def batch(self, flags: Sequence[str], question: Question, default: bool) -> Steps[dict[str, bool]]:
        yield from ()
        return {flag: bool(self._answer(flag, question, default).value) for flag in flags}

    def _answer(self, flag: str, question: Question, default: JsonValue) -> Evaluation:
        self.asked.append((flag, question.user_id))
        if flag not in self.flags:
            return Evaluation(flag, default, False, None, "DEFAULT", "FLAG_NOT_FOUND")
        value = self.flags[flag]
        return Evaluation(flag, value, value is not False, None, "TARGETING_MATCH")


class _Mock(Calls):
    """What both mocks have beside the calls."""

    def __init__(self, flags: Mapping[str, JsonValue] | None = None) -> None:
        """`flags` are the values by the flags' names. A flag that is not there has the default of the call."""
        self._core = self._answers = _MockCore(flags)

    @property
    def flags(self) -> dict[str, JsonValue]:
        """The values by the flags' names. They may be changed at any time."""
        return self._answers.flags

    @flags.setter
    def flags(self, flags: Mapping[str, JsonValue]) -> None:
        self._answers.flags = dict(flags)

    @property
    def asked(self) -> list[tuple[str, UserId]]:
        """Each flag and user that was asked for, in order."""
        return self._answers.asked

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

    @property
    def is_following(self) -> bool:
        """Always true: a mock has no connection that could be missing."""
        return True


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
    raise AssertionError(f"a mock has nobody to ask: {step}")
