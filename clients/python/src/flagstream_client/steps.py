"""The steps of a call, and the two ways to run them.

```text
 call ─► Core: generator of steps ─► run (threads) or run_async (asyncio) ─► the client does each step ─► answer
```

The logic of the clients is in generators without input and output. A generator yields a step, receives its result, or is
thrown the `FlagstreamError` that the step ended with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from .errors import FlagstreamError

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Post a body over HTTP; the result is a `Reply`."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    timeout_s: float


@dataclass(frozen=True)
class Reply:
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Wait:
    """Wait before a retry."""

    seconds: float


@dataclass(frozen=True)
class Run:
    """Call a function that may block; the result is what it returns."""

    function: Callable[[], Any]


class Waiter(Protocol):
    """Receives one outcome, from any thread."""

    def set(self, outcome: Any) -> None:
        """Takes the result, or the `FlagstreamError` that it ended with. Called at most once."""


# Not frozen, because each call through Kafka creates one, and frozen classes are created more slowly.
@dataclass(slots=True)
class Await:
    """Start something that sets a waiter; the result is the waiter's outcome."""

    start: Callable[[Waiter], None]
    #: Called at the timeout; returns the error, or None if the outcome was set at the same moment.
    expire: Callable[[], FlagstreamError | None]
    #: Called if the caller no longer waits.
    abandon: Callable[[], None]
    timeout_s: float


@dataclass(frozen=True)
class RedisWrite:
    """One value to write to Redis, unless the existing one is newer."""

    key: str
    version: int
    ttl_ms: int
    value: str


@dataclass(frozen=True)
class ReadRedis:
    """Read keys; the result has a text or None for each."""

    keys: Sequence[str]


@dataclass(frozen=True)
class WriteRedis:
    """Write values."""

    writes: Sequence[RedisWrite]


Step: TypeAlias = Send | Wait | Run | Await | ReadRedis | WriteRedis
Steps: TypeAlias = Generator[Step, Any, T]


def run(steps: Steps[T], do: Callable[[Any], Any]) -> T:
    """Runs all steps with a function that blocks."""
    # Closed whatever happens: an attempt that was interrupted must not stay counted as in flight.
    with contextlib.closing(steps):
        try:
            step = next(steps)
            while True:
                try:
                    result = do(step)
                except FlagstreamError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            value: T = end.value
            return value


async def run_async(steps: Steps[T], do: Callable[[Any], Awaitable[Any]]) -> T:
    """Runs all steps with a function that is awaited."""
    with contextlib.closing(steps):
        try:
            step = next(steps)
            while True:
                try:
                    result = await do(step)
                except FlagstreamError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            value: T = end.value
            return value
