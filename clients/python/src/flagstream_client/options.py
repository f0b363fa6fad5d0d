"""The options of the clients and their defaults."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypedDict
from urllib.parse import urlsplit

from .errors import FlagstreamError

#: Lifetime of an answer, in memory or in Redis.
DEFAULT_TTL_S = 300.0
#: Lifetime of an answer in memory, over Redis.
HYBRID_MEMORY_TTL_S = 60.0


class CommonOptions(TypedDict, total=False):
    """The optional keyword arguments of the clients over HTTP and of those over Kafka."""

    timeout: float
    failure_threshold: int
    recovery_timeout: float
    cache: bool
    cache_max_entries: int
    local_ttl: float
    redis: str
    follow_changes: bool
    on_error: Callable[[FlagstreamError], None]
    traceparent: Callable[[], str | None]


class Options(CommonOptions, total=False):
    """The optional keyword arguments of both clients. `help(FeatureFlagClient.__init__)` explains each one."""

    token: str
    attempt_timeout: float
    max_retries: int
    backoff_base: float
    backoff_cap: float
    max_connections: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all clients have."""

    environment: str | None = None
    cache_ttl: float | None = None
    timeout: float = 5.0
    failure_threshold: int = 5
    recovery_timeout: float = 60.0
    cache: bool = False
    cache_max_entries: int = 10_000
    local_ttl: float = HYBRID_MEMORY_TTL_S
    redis: str | None = field(default=None, repr=False)
    redis_client: Any = None
    follow_changes: bool = False
    on_error: Callable[[FlagstreamError], None] | None = None
    traceparent: Callable[[], str | None] | None = None
    #: Replaced in tests.
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Checks the options. Variables of the environment replace those that are missing."""
        options["environment"] = options.get("environment") or os.environ.get("ENVIRONMENT") or None
        settings = cls(**options)
        for known in fields(cls):
            value = getattr(settings, known.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
                raise ValueError(f"{known.name}: expected 0 or more, got {value}")
        for name in settings.positive:
            if not getattr(settings, name):
                raise ValueError(f"{name}: expected more than 0")
        if settings.redis is not None and settings.redis_client is not None:
            raise ValueError("redis, redis_client: expected one of them, got both")
        return settings

    @property
    def positive(self) -> tuple[str, ...]:
        """The options that must not be 0."""
        return ("timeout", "failure_threshold")

    @property
    def has_redis(self) -> bool:
        """Whether there is a cache in Redis."""
        return self.redis is not None or self.redis_client is not None

    @property
    def memory_ttl(self) -> float | None:
        """Lifetime of an answer in memory, in seconds; None without a cache in memory."""
        if self.has_redis:
            return self.local_ttl if self.cache else None
        is_on = self.cache or self.follow_changes or self.cache_ttl is not None
        return (DEFAULT_TTL_S if self.cache_ttl is None else self.cache_ttl) if is_on else None

    @property
    def redis_ttl(self) -> float | None:
        """Lifetime of an answer in Redis, in seconds; None without a cache in Redis."""
        if not self.has_redis:
            return None
        return DEFAULT_TTL_S if self.cache_ttl is None else self.cache_ttl


@dataclass(frozen=True, kw_only=True)
class HttpSettings(Settings):
    """What the clients over HTTP have."""

    base_url: str
    token: str | None = field(default=None, repr=False)
    attempt_timeout: float = 3.0
    max_retries: int = 2
    backoff_base: float = 0.1
    backoff_cap: float = 2.0
    max_connections: int = 100

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Checks the options; `base_url` may be None for the variable `CONFIG_SERVICE_URL`."""
        given = options["base_url"]
        url = given or os.environ.get("CONFIG_SERVICE_URL") or ""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"config_service_url: expected http://… or https://…, got {url!r}; the variable CONFIG_SERVICE_URL is its default"
            )
        return super().of(**{**options, "base_url": url.rstrip("/")})

    @property
    def positive(self) -> tuple[str, ...]:
        """The options that must not be 0."""
        return (*super().positive, "attempt_timeout", "max_connections")

    def headers(self) -> dict[str, str]:
        """The headers of each request."""
        headers = {"content-type": "application/json", "user-agent": "flagstream-client-python/0.1.0"}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        if self.traceparent is not None and (trace := self.traceparent()) is not None:
            headers["traceparent"] = trace
        return headers
