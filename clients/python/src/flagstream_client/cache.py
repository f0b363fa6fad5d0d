"""Answers that are used again, until they expire or a change overtakes them.

```text
 question ─► memory ─► Redis (booleans of users without context) ─► service
                ▲         ▲
 change ────────┴─────────┴── announced versions: an older answer is not used
```
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING

from .announcements import Announcements, FlagChange
from .evaluation import Evaluation, Question
from .redis_cache import RedisCache
from .steps import Steps

if TYPE_CHECKING:
    from .options import Settings

CACHED = "CACHED"
#: Marks booleans that come from Redis: they are no complete answers.
BOOLEAN_PREFIX = b"b:"

IsCurrent = Callable[[], bool]


class MemoryCache:
    """Answers in memory; the least recently used one is evicted. For any number of threads."""

    def __init__(self, max_entries: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._max_entries = max_entries
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[Evaluation, IsCurrent, float]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: bytes) -> Evaluation | None:
        """The answer, unless it has expired or is no longer current."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            evaluation, is_current, until = entry
            if self._clock() >= until or not is_current():
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return evaluation

    def put(self, key: bytes, evaluation: Evaluation, is_current: IsCurrent) -> None:
        """Caches an answer for as long as `is_current` returns true."""
        with self._lock:
            if not is_current():
                return
            self._entries[key] = (evaluation, is_current, self._clock() + self._ttl_s)
            self._entries.move_to_end(key)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Drops all answers."""
        with self._lock:
            self._entries.clear()


class AnswerCache:
    """The layers of a client's cache.

    An answer carries the newest version that the service knew when it gave it (`flags_version`). A change of any flag of
    its environment with a higher version makes it stale, also while the answer is in flight.
    """

    def __init__(self, settings: Settings) -> None:
        self.announcements = Announcements()
        memory_ttl, redis_ttl = settings.memory_ttl, settings.redis_ttl
        has_memory = memory_ttl is not None and settings.cache_max_entries > 0
        self._memory = MemoryCache(settings.cache_max_entries, memory_ttl or 0, settings.clock) if has_memory else None
        self._redis = RedisCache(redis_ttl, settings.clock) if redis_ttl is not None else None

    @property
    def is_on(self) -> bool:
        """Whether there is any layer."""
        return self._memory is not None or self._redis is not None

    @property
    def has_redis(self) -> bool:
        """Whether there is a layer in Redis."""
        return self._redis is not None

    @property
    def newest(self) -> int:
        """The newest announced version, or 0."""
        return self.announcements.newest

    def get(self, key: bytes) -> Evaluation | None:
        """The complete answer to a question, from memory."""
        return None if self._memory is None else self._memory.get(key)

    def put(self, key: bytes, evaluation: Evaluation) -> None:
        """Caches a complete answer in memory."""
        if self._memory is not None and evaluation.reason != "ERROR":
            self._memory.put(key, evaluation, lambda: self._is_current(evaluation))

    def get_booleans(self, question: Question, keys: Mapping[str, bytes]) -> Steps[dict[str, Evaluation]]:
        """Booleans of a user without context, from memory or Redis, by flag."""
        found: dict[str, Evaluation] = {}
        if self._memory is not None:
            kept = ((flag, self._memory.get(key) or self._memory.get(BOOLEAN_PREFIX + key)) for flag, key in keys.items())
            found = {flag: evaluation for flag, evaluation in kept if evaluation is not None}
        missing = [flag for flag in keys if flag not in found]
        if self._redis is None or not missing or question.environment is None:
            return found
        environment = question.environment
        values = yield from self._redis.read(environment, missing, str(question.user_id))
        for flag, value in values.items():
            # Compared after the value was read: a change may have been announced meanwhile.
            def is_current(value: RedisCache.Value = value, flag: str = flag) -> bool:
                if value.basis_version is None:
                    return value.flag_version >= self.announcements.of_flag(environment, flag)
                return value.basis_version >= self.announcements.of(environment)

            if is_current():
                version = value.flag_version if value.basis_version is None else value.basis_version
                found[flag] = Evaluation(
                    flag, value.enabled, value.enabled, None, CACHED,
                    flag_version=value.flag_version, environment=environment, flags_version=version,
                )
                if self._memory is not None:
                    self._memory.put(BOOLEAN_PREFIX + keys[flag], found[flag], is_current)
        return found

    def put_booleans(self, question: Question, evaluations: list[Evaluation]) -> Steps[None]:
        """Writes booleans of a user without context to Redis."""
        environment = question.environment
        if self._redis is not None and environment is not None:
            usable = [e for e in evaluations if self._is_shareable(e, environment)]
            yield from self._redis.write(environment, usable, str(question.user_id))

    def announce(self, change: FlagChange) -> None:
        """Makes answers older than a change unusable."""
        self.announcements.add(change)

    def clear(self) -> None:
        """Drops all answers in memory."""
        if self._memory is not None:
            self._memory.clear()

    def _is_shareable(self, evaluation: Evaluation, environment: str) -> bool:
        is_boolean = isinstance(evaluation.value, bool) and evaluation.reason != "ERROR"
        return is_boolean and evaluation.environment == environment and self._is_current(evaluation)

    def _is_current(self, evaluation: Evaluation) -> bool:
        return evaluation.flags_version >= self.announcements.of(evaluation.environment)
