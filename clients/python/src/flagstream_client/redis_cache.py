"""Booleans in Redis, under the keys `ff_eval:…` that services in all languages and flagstream itself share.

A value begins with a version: `basis_version`, the newest one that its answer is based on, else `flag_version`. The clients
always write `basis_version`, with the newest version that the service knew.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .announcements import parse_json
from .breaker import Breaker
from .errors import CircuitOpenError, FlagstreamError
from .evaluation import Evaluation
from .steps import ReadRedis, RedisWrite, Steps, WriteRedis

#: Time that a call waits for Redis.
READ_TIMEOUT_S = 0.1
#: Time for which Redis is skipped after a failure.
RECOVERY_S = 2.0
#: Longest environment, flag and user together; flagstream writes no longer ones either.
MAX_NAMES_BYTES = 1_024

#: Sets a key unless the existing value begins with a higher version. Arguments: version, lifetime in ms, value.
SET_IF_NEWER = """
local kept = tonumber(string.match(redis.call('GETRANGE', KEYS[1], 0, 47), '^{"%l+_version":(%d+)'))
if kept and kept > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
return 1
"""

logger = logging.getLogger("flagstream_client")


class RedisFailure(FlagstreamError):
    """Redis did not answer. It never reaches a caller."""

    kind = "unavailable"


class RedisCache:
    """Reads and writes values, and skips Redis for a while after a failure."""

    @dataclass(frozen=True)
    class Value:
        """A value that was read."""

        enabled: bool
        flag_version: int
        basis_version: int | None

    def __init__(self, ttl_s: float, clock: Callable[[], float]) -> None:
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._breaker = Breaker(1, RECOVERY_S, clock)

    def read(self, environment: str, flags: Sequence[str], user: str) -> Steps[dict[str, Value]]:
        """The values by flag. Absent: those that are not there, that are stale, and all if Redis does not answer."""
        allowed = [flag for flag in flags if _is_allowed(environment, flag, user)]
        if not allowed:
            return {}
        keys = [key for flag in allowed for key in (value_key(environment, flag, user), min_version_key(environment, flag))]
        try:
            self._breaker.enter()
        except CircuitOpenError:
            return {}
        try:
            texts = yield ReadRedis(keys)
        except RedisFailure as error:
            self._failed(error)
            return {}
        except BaseException:
            self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        values = (parse_value(text, least) for text, least in zip(texts[::2], texts[1::2], strict=True))
        return {flag: value for flag, value in zip(allowed, values, strict=True) if value is not None}

    def write(self, environment: str, evaluations: Sequence[Evaluation], user: str) -> Steps[None]:
        """Writes answers, unless Redis has newer ones."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        writes = []
        for evaluation in evaluations:
            if evaluation.flag_version is None or evaluation.killed or not _is_allowed(environment, evaluation.flag_name, user):
                continue
            value = {
                "basis_version": evaluation.flags_version,
                "flag_version": evaluation.flag_version,
                "enabled": evaluation.enabled,
                "cached_at": now,
            }
            key = value_key(environment, evaluation.flag_name, user)
            text = json.dumps(value, separators=(",", ":"))
            writes.append(RedisWrite(key, evaluation.flags_version, self._ttl_ms, text))
        if not writes or self._breaker.is_open:
            return
        try:
            yield WriteRedis(writes)
        except RedisFailure as error:
            self._failed(error)

    def _failed(self, error: RedisFailure) -> None:
        if not self._breaker.is_open:
            logger.warning("Redis does not answer; its cache is skipped until it does: %s", error)
        self._breaker.failed()


def parse_value(text: str | None, min_version: str | None) -> RedisCache.Value | None:
    """The value, unless it is unreadable or older than the flag's minimum version."""
    value = parse_json(text) if text is not None else None
    if not isinstance(value, dict) or not isinstance(value.get("enabled"), bool) or not _is_version(value.get("flag_version")):
        return None
    basis = value.get("basis_version")
    found = RedisCache.Value(value["enabled"], value["flag_version"], basis if _is_version(basis) else None)
    version = found.flag_version if found.basis_version is None else found.basis_version
    try:
        least = int(min_version) if min_version is not None else 0
    except ValueError:
        return None
    return found if version >= least else None


def value_key(environment: str, flag: str, user: str) -> str:
    """The key of a user's boolean."""
    return "ff_eval:" + ":".join(_encode(part, "%:") for part in (environment, flag, user))


def min_version_key(environment: str, flag: str) -> str:
    """The key of the version below which values of the flag are stale."""
    special = "%:/{}"
    return f"flagstream:warm:{{{_encode(environment, special)}/{_encode(flag, special)}}}:floor"


def _encode(part: str, special: str) -> str:
    return "".join(f"%{ord(char):02X}" if char in special else char for char in part)


def _is_allowed(environment: str, flag: str, user: str) -> bool:
    return sum(len(part.encode()) for part in (environment, flag, user)) <= MAX_NAMES_BYTES


def _is_version(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class BlockingRedis:
    """Commands with a `redis.Redis`."""

    def __init__(self, url: str | None, client: Any) -> None:
        self._is_owned = client is None
        self._client = client
        if client is None:
            from redis import Redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry

            self._client = Redis.from_url(url or "", retry=Retry(NoBackoff(), 0), **_own_options())

    def read(self, keys: Sequence[str]) -> list[str | None]:
        """Reads keys; raises `RedisFailure`."""
        try:
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.get(key)
            return [_text(value) for value in pipeline.execute()]
        except Exception as error:
            raise RedisFailure(str(error) or type(error).__name__) from error

    def write(self, writes: Sequence[RedisWrite]) -> None:
        """Writes values; raises `RedisFailure`."""
        try:
            for write in writes:
                self._client.eval(SET_IF_NEWER, 1, write.key, write.version, write.ttl_ms, write.value)
        except Exception as error:
            raise RedisFailure(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """Closes the connections, unless the client is the caller's."""
        if self._is_owned:
            self._client.close()


class AsyncRedis:
    """Commands with a `redis.asyncio.Redis`."""

    def __init__(self, url: str | None, client: Any) -> None:
        self._is_owned = client is None
        self._client = client
        if client is None:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff

            self._client = Redis.from_url(url or "", retry=Retry(NoBackoff(), 0), **_own_options())

    async def read(self, keys: Sequence[str]) -> list[str | None]:
        """Reads keys; raises `RedisFailure`."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                pipeline = self._client.pipeline(transaction=False)
                for key in keys:
                    pipeline.get(key)
                return [_text(value) for value in await pipeline.execute()]
        except Exception as error:
            raise RedisFailure(str(error) or type(error).__name__) from error

    async def write(self, writes: Sequence[RedisWrite]) -> None:
        """Writes values; raises `RedisFailure`."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                for write in writes:
                    await self._client.eval(SET_IF_NEWER, 1, write.key, write.version, write.ttl_ms, write.value)
        except Exception as error:
            raise RedisFailure(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Closes the connections, unless the client is the caller's."""
        if self._is_owned:
            await self._client.aclose()


def _own_options() -> dict[str, Any]:
    """Options of our own connections: short timeouts, and no retries, because the service can be asked instead."""
    return {"socket_timeout": READ_TIMEOUT_S, "socket_connect_timeout": READ_TIMEOUT_S, "decode_responses": True}


def _text(value: object) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else None
