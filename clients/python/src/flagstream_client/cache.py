"""Answers, until they are old or an invalidation overtakes them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from .evaluation import Evaluation


#: Beyond it an invalidation counts for all of them.
MAX_ENVIRONMENTS = 1_000


class Cache:
    """Bounded; what was used last stays. For any number of threads.

    An answer carries the newest version that the service knew when it gave it (`flags_version`). An invalidation
    of any flag of its environment with a higher version makes it old: flags depend on each other, and only the
    service knows how. So an answer that was on its way meanwhile is not kept either.
    """

    def __init__(self, max_entries: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._max_entries = max_entries
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[Evaluation, float]] = OrderedDict()
        #: The newest version announced, by environment; under None that of all.
        self._announced: dict[str | None, int] = {}
        self._lock = Lock()

    @property
    def newest(self) -> int | None:
        """The newest version that was announced."""
        with self._lock:
            return max(self._announced.values(), default=None)

    def get(self, key: bytes) -> Evaluation | None:
        with self._lock:
            evaluation, until = self._entries.get(key, (None, 0.0))
            if evaluation is None:
                return None
            if self._clock() >= until or not self._is_new(evaluation):
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return evaluation

    def put(self, key: bytes, evaluation: Evaluation) -> None:
        with self._lock:
            if self._max_entries == 0 or evaluation.reason == "ERROR" or not self._is_new(evaluation):
                return
            self._entries[key] = (evaluation, self._clock() + self._ttl_s)
            self._entries.move_to_end(key)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)

    def invalidate(self, version: int, environment: str | None) -> None:
        with self._lock:
            if environment not in self._announced and len(self._announced) >= MAX_ENVIRONMENTS:
                environment = None
            self._announced[environment] = max(version, self._announced.get(environment, 0))

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def _is_new(self, evaluation: Evaluation) -> bool:
        announced = max(self._announced.get(None, 0), self._announced.get(evaluation.environment, 0))
        return evaluation.flags_version >= announced
