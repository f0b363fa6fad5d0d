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
        #: Each with an object that identifies it: one function may be added twice.
        self._all: list[tuple[object, Callable[[T], object]]] = []
        self._lock = Lock()

    def add(self, listener: Callable[[T], object]) -> Callable[[], None]:
        """Adds a listener; the result removes it."""
        token = object()
        with self._lock:
            self._all = [*self._all, (token, listener)]

        def remove() -> None:
            with self._lock:
                self._all = [entry for entry in self._all if entry[0] is not token]

        return remove

    def notify(self, what: T) -> None:
        """Calls all listeners. What they raise is logged."""
        for _, listener in self._all:
            try:
                listener(what)
            except Exception:
                logger.exception("a listener failed")
