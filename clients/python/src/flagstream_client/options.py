"""The options of a client and their defaults."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TypedDict, Unpack
from urllib.parse import urlsplit

from .errors import FlagstreamError


class Options(TypedDict, total=False):
    """The optional keyword arguments of both clients. `help(FeatureFlagClient.__init__)` explains each one."""

    token: str
    timeout: float
    attempt_timeout: float
    max_retries: int
    backoff_base: float
    backoff_cap: float
    failure_threshold: int
    recovery_timeout: float
    cache: bool
    cache_max_entries: int
    follow_changes: bool
    max_connections: int
    on_error: Callable[[FlagstreamError], None]


@dataclass(frozen=True)
class Settings:
    base_url: str
    environment: str | None
    cache_ttl: float
    token: str | None = field(default=None, repr=False)
    timeout: float = 5.0
    attempt_timeout: float = 3.0
    max_retries: int = 2
    backoff_base: float = 0.1
    backoff_cap: float = 2.0
    failure_threshold: int = 5
    recovery_timeout: float = 60.0
    cache: bool = False
    cache_max_entries: int = 10_000
    follow_changes: bool = False
    max_connections: int = 100
    on_error: Callable[[FlagstreamError], None] | None = None
    #: Replaced in tests.
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def of(cls, base_url: str, environment: str | None, cache_ttl: float, **options: Unpack[Options]) -> Settings:
        settings = cls(base_url.rstrip("/"), environment, cache_ttl, **options)
        parts = urlsplit(settings.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"config_service_url: expected http://… or https://…, got {base_url!r}")
        for known in fields(cls):
            value = getattr(settings, known.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
                raise ValueError(f"{known.name}: expected 0 or more, got {value}")
        for name in ("timeout", "attempt_timeout", "failure_threshold", "max_connections"):
            if not getattr(settings, name):
                raise ValueError(f"{name}: expected more than 0")
        return settings

    def headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "user-agent": "flagstream-client-python/0.1.0"}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        return headers
