"""Functions of the caller that are called when something happens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")

logger = logging.getLogger("flagstream_client")


class Listeners(Generic[T]):
    """Listeners of one kind. For any number of threads."""

    def __init__(self) -> None:
        self._all: list[Callable[[T], object]] = []
        self._lock = Lock()

    def add(self, listener: Callable[[T], object]) -> Callable[[], None]:
        """Adds a listener; the result removes it."""
        with self._lock:
            self._all = [*self._all, listener]

        def remove() -> None:
            with self._lock:
                self._all = [known for known in self._all if known is not listener]

        return remove

    def notify(self, what: T) -> None:
        """Calls all listeners. What they raise is logged."""
        for listener in self._all:
            try:
                listener(what)
            except Exception:
                logger.exception("a listener failed")
