"""The stream of changes (`GET /api/v1/changes`), without input and output."""

from __future__ import annotations

import json
import random
from urllib.parse import urlencode

from .cache import Cache
from .errors import InvalidAnswerError
from .evaluation import JsonValue

#: The service writes something every 15 s; a connection that is silent for longer is dead.
SILENCE_S = 45.0
MAX_LINE_BYTES = 64 << 10
RETRY_BASE_S = 1.0
RETRY_CAP_S = 30.0


class Changes:
    """Reads server-sent events, and tells the cache."""

    def __init__(self, cache: Cache, environment: str | None) -> None:
        self._cache = cache
        self._rest = b""
        self._id = ""
        self._data = ""
        self._failures = 0
        self.last_id: str | None = None
        self.path = "/api/v1/changes" + (f"?{urlencode({'environment': environment})}" if environment else "")

    def headers(self) -> dict[str, str]:
        """Of a new connection, which goes on where the last one ended."""
        self._rest, self._id, self._data = b"", "", ""
        return {"accept": "text/event-stream"} | ({"last-event-id": self.last_id} if self.last_id else {})

    def pause(self) -> float:
        """How long to wait before the next connection."""
        most = min(RETRY_CAP_S, RETRY_BASE_S * 2**self._failures)
        self._failures += 1
        return random.uniform(0, most)  # noqa: S311

    def feed(self, chunk: bytes) -> bool:
        """Takes what has come; whether it is known by now from where on changes are heard."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise InvalidAnswerError("a line of the stream of changes is too long")
        for line in lines:
            self._line(line.rstrip(b"\r").decode(errors="replace"))
        return self.last_id is not None

    def _line(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "data":
            # The service writes all of it in one line.
            self._data = value
        elif not line and self._id:
            self._event(self._data)
            self.last_id, self._id, self._data, self._failures = self._id, "", "", 0

    def _event(self, data: str) -> None:
        if not data:
            # Where the stream begins: what changed before is not told.
            if self._id.isdecimal():
                self._cache.invalidate(int(self._id), None)
            return
        apply(self._cache, parse(data))


def parse(text: str | bytes) -> JsonValue:
    """An invalidation as it stands in the stream or in `feature-flag-updates`; None if it is not JSON."""
    try:
        event: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return event


def apply(cache: Cache, event: object) -> bool:
    """Takes one invalidation; whether it was understood."""
    if not isinstance(event, dict) or not isinstance(event.get("version"), int):
        return False
    environment = event.get("environment")
    cache.invalidate(event["version"], environment if isinstance(environment, str) else None)
    return True
