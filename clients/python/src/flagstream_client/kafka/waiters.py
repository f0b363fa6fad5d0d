"""Waiters: how an outcome comes from a thread of the client to its caller."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from threading import Lock
from typing import Any

from ..errors import FlagstreamError
from ..steps import Await

_NONE: Any = object()


class BlockingWaiter:
    """Blocks its caller until the outcome is there. A lock is the cheapest means of the standard library."""

    __slots__ = ("_lock", "_outcome")

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()
        self._outcome: Any = _NONE

    def set(self, outcome: Any) -> None:
        self._outcome = outcome
        self._lock.release()

    def wait(self, step: Await) -> Any:
        """The result; raises the error that the request ended with."""
        try:
            is_set = self._lock.acquire(timeout=step.timeout_s)
        except BaseException:
            step.abandon()
            raise
        if not is_set:
            error = step.expire()
            if error is not None:
                raise error
            # Another thread has taken the request, and sets its outcome now.
            self._lock.acquire()
        return _result(self._outcome)


class Deliveries:
    """Outcomes on their way into an event loop: one wake-up of the loop serves all that come meanwhile.

    All deadlines share one timer, because timers of asyncio are expensive.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._queue: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._is_scheduled = False
        #: In the order of their deadlines.
        self._watched: deque[tuple[float, AsyncWaiter, Await]] = deque()
        self._has_timer = False

    def put(self, future: asyncio.Future[Any], outcome: Any) -> None:
        """Takes an outcome, from any thread."""
        self._queue.append((future, outcome))
        if not self._is_scheduled:
            self._is_scheduled = True
            # The loop may be closed: then its callers are gone as well.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._drain)

    def watch(self, waiter: AsyncWaiter, step: Await) -> None:
        """Expires a waiter at its deadline."""
        watched = self._watched
        while watched and watched[0][1].future.done():
            watched.popleft()
        deadline = self.loop.time() + step.timeout_s
        if watched and deadline < watched[-1][0]:
            self.loop.call_later(step.timeout_s, waiter.expire, step)
            return
        watched.append((deadline, waiter, step))
        if not self._has_timer:
            self._has_timer = True
            self.loop.call_at(deadline, self._expire)

    def _drain(self) -> None:
        # Before the queue is emptied: what comes afterwards schedules the next call.
        self._is_scheduled = False
        while self._queue:
            future, outcome = self._queue.popleft()
            if not future.done():
                settle(future, outcome)

    def _expire(self) -> None:
        self._has_timer = False
        while self._watched:
            deadline, waiter, step = self._watched[0]
            if not waiter.future.done():
                if deadline > self.loop.time():
                    self._has_timer = True
                    self.loop.call_at(deadline, self._expire)
                    return
                waiter.expire(step)
            self._watched.popleft()


class AsyncWaiter:
    """Completes a future of an event loop."""

    __slots__ = ("_deliveries", "future")

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self.future: asyncio.Future[Any] = deliveries.loop.create_future()

    def set(self, outcome: Any) -> None:
        self._deliveries.put(self.future, outcome)

    async def wait(self, step: Await) -> Any:
        """The result; raises the error that the request ended with."""
        self._deliveries.watch(self, step)
        try:
            return await self.future
        except asyncio.CancelledError:
            step.abandon()
            raise

    def expire(self, step: Await) -> None:
        """Ends the wait at its deadline."""
        if not self.future.done() and (error := step.expire()) is not None:
            settle(self.future, error)


def settle(future: asyncio.Future[Any], outcome: Any) -> None:
    """Completes a future with an outcome, in its loop."""
    if isinstance(outcome, FlagstreamError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _result(outcome: Any) -> Any:
    if isinstance(outcome, FlagstreamError):
        raise outcome
    return outcome
