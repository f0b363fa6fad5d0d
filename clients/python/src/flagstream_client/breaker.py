"""The circuit breaker: a service that fails again and again is left alone for a while."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from .errors import CircuitOpenError


class Breaker:
    """Opens after so many failures in a row; after `recovery_timeout_s` it lets one attempt through, which decides."""

    def __init__(self, failure_threshold: int, recovery_timeout_s: float, clock: Callable[[], float]) -> None:
        self._threshold = failure_threshold
        self._recovery_timeout_s = recovery_timeout_s
        self._clock = clock
        self._failures = 0
        self._opened: float | None = None
        self._probing = False
        self._lock = Lock()

    @property
    def is_open(self) -> bool:
        with self._lock:
            return self._opened is not None

    def enter(self) -> None:
        """Before an attempt."""
        with self._lock:
            if self._opened is None:
                return
            if self._probing or self._clock() - self._opened < self._recovery_timeout_s:
                raise CircuitOpenError("the service failed too often: not asked")
            self._probing = True

    def succeeded(self) -> None:
        with self._lock:
            self._failures, self._opened, self._probing = 0, None, False

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            if self._opened is not None or self._failures >= self._threshold:
                self._opened = self._clock()
            self._probing = False

    def abandoned(self) -> None:
        """An attempt was cancelled: it says nothing about the service."""
        with self._lock:
            self._probing = False

    def may_be_well(self) -> None:
        """The service gave a sign of life: the next attempt goes through at once."""
        with self._lock:
            if self._opened is not None:
                self._opened = self._clock() - self._recovery_timeout_s
