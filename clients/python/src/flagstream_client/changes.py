"""The stream of changes (`GET /api/v1/changes`), without input and output."""

from __future__ import annotations

import random
from urllib.parse import urlencode

from .announcements import parse_change, parse_json
from .core import Core
from .errors import InvalidAnswerError

#: The service writes something every 15 s; a connection that is silent for longer is dead.
SILENCE_S = 45.0
MAX_LINE_BYTES = 64 << 10
RETRY_BASE_S = 1.0
RETRY_CAP_S = 30.0


class Changes:
    """Reads server-sent events, and reports each change to the client's core."""

    def __init__(self, core: Core, environment: str | None) -> None:
        self._core = core
        self._rest = b""
        self._id = ""
        self._data = ""
        self._failures = 0
        self.last_id: str | None = None
        self.path = "/api/v1/changes" + (f"?{urlencode({'environment': environment})}" if environment else "")

    def headers(self) -> dict[str, str]:
        """The headers of a new connection, which resumes where the last one ended."""
        self._rest, self._id, self._data = b"", "", ""
        return {"accept": "text/event-stream"} | ({"last-event-id": self.last_id} if self.last_id else {})

    def pause(self) -> float:
        """The time before the next connection."""
        most = min(RETRY_CAP_S, RETRY_BASE_S * 2**self._failures)
        self._failures += 1
        return random.uniform(0, most)  # noqa: S311

    def feed(self, chunk: bytes) -> bool:
        """Takes a piece; returns whether it is known from which version on changes arrive."""
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
            # Where the stream begins: earlier changes are not announced.
            if self._id.isdecimal():
                self._core.cache.announcements.begin(None, int(self._id))
            return
        change = parse_change(parse_json(data))
        if change is not None:
            self._core.change(change)
