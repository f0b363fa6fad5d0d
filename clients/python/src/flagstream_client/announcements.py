"""Changes of flags, and the newest version that was announced."""

from __future__ import annotations

import json
from dataclasses import dataclass
from threading import Lock

#: Tracked environments at most; changes of further ones count for all environments.
MAX_ENVIRONMENTS_COUNT = 1_000
#: Tracked flags at most; changes of further ones count for all flags of their environment.
MAX_FLAGS_COUNT = 10_000

UPDATED = "FEATURE_FLAG_UPDATED"
RESET = "RESET"


@dataclass(frozen=True)
class FlagChange:
    """A change of flags that was announced."""

    #: `FEATURE_FLAG_CREATED`, `FEATURE_FLAG_UPDATED`, `FEATURE_FLAG_DELETED`, or `RESET`: any flag may have changed.
    event_type: str
    #: None if any flag may have changed.
    flag_name: str | None
    #: None for all environments.
    environment: str | None
    version: int


def parse_change(event: object) -> FlagChange | None:
    """The change that an event of the stream or of `feature-flag-updates` describes; None if it is none."""
    if not isinstance(event, dict):
        return None
    version = event.get("version")
    if not isinstance(version, int) or isinstance(version, bool):
        return None
    texts = (event.get(name) for name in ("event_type", "flag_name", "environment"))
    event_type, flag_name, environment = (text if isinstance(text, str) else None for text in texts)
    return FlagChange(event_type or RESET, flag_name, environment, version)


def parse_json(text: str | bytes) -> object:
    """JSON as Python's values; None if it is not JSON."""
    try:
        # Decoded here, because `json.loads` first looks for the encoding of bytes.
        value: object = json.loads(text if isinstance(text, str) else str(text, "utf-8"))
    except (ValueError, RecursionError):
        return None
    return value


class Announcements:
    """The newest announced versions: by environment, and by flag. For any number of threads.

    An answer of the service carries the newest version that it knew, so it is compared with all changes of its
    environment: flags depend on each other, and only the service knows how. A value that flagstream wrote to Redis carries
    the version of its flag, and a second one only if the flag depends on others.
    """

    def __init__(self) -> None:
        #: Under None the version of all environments.
        self._by_environment: dict[str | None, int] = {}
        self._of_any_flag: dict[str | None, int] = {}
        self._by_flag: dict[tuple[str | None, str], int] = {}
        self._lock = Lock()

    def add(self, change: FlagChange) -> None:
        """Records a change."""
        with self._lock:
            environment = change.environment
            if environment not in self._by_environment and len(self._by_environment) >= MAX_ENVIRONMENTS_COUNT:
                environment = None
            self._raise(self._by_environment, environment, change.version)
            if change.flag_name is not None:
                key = (environment, change.flag_name)
                if key in self._by_flag or len(self._by_flag) < MAX_FLAGS_COUNT:
                    self._by_flag[key] = max(change.version, self._by_flag.get(key, 0))
                    return
            self._raise(self._of_any_flag, environment, change.version)

    def begin(self, environment: str | None, version: int) -> None:
        """Records where a stream of changes begins: earlier ones were not announced to this client."""
        with self._lock:
            self._raise(self._by_environment, environment, version)

    @property
    def newest(self) -> int:
        """The newest announced version of all environments, or 0."""
        with self._lock:
            return max(self._by_environment.values(), default=0)

    def of(self, environment: str | None) -> int:
        """The newest announced version of an environment, or 0."""
        with self._lock:
            return max(self._by_environment.get(None, 0), self._by_environment.get(environment, 0))

    def of_flag(self, environment: str, flag: str) -> int:
        """The newest announced version of a flag that depends on no other, or 0."""
        with self._lock:
            return max(
                *(self._of_any_flag.get(place, 0) for place in (None, environment)),
                *(self._by_flag.get((place, flag), 0) for place in (None, environment)),
            )

    @staticmethod
    def _raise(versions: dict[str | None, int], environment: str | None, version: int) -> None:
        versions[environment] = max(version, versions.get(environment, 0))
