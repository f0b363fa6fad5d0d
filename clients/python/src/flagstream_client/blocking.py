"""The client for code that blocks."""

from __future__ import annotations

import threading
import time
from typing import Any, TypeVar, Unpack

import httpx2 as httpx

from .blocking_calls import Flags
from .changes import SILENCE_S, Changes
from .core import logger
from .errors import ConnectionFailedError, FlagstreamError, InvalidAnswerError, TimedOutError, error_of
from .http_core import MAX_ANSWER_BYTES, HttpCore
from .options import HttpSettings, Options
from .redis_cache import BlockingRedis
from .steps import ReadRedis, Reply, Send, Step, Steps, Wait, WriteRedis, run

T = TypeVar("T")


class SyncFeatureFlagClient(Flags):
    """A client of flagstream for code that blocks. Use one for the whole process, from any number of threads, and close it.

    `is_enabled`, `evaluate_flag`, `batch_evaluate` and `bulk_evaluate_flags` always answer: with the default if
    the service does not. `evaluate` and `evaluate_many` raise a `FlagstreamError` instead. Their type is `Flags`,
    which the mock has, too.
    """

    def __init__(
        self,
        config_service_url: str | None = None,
        environment: str | None = None,
        cache_ttl: float | None = None,
        *,
        http_client: httpx.Client | None = None,
        redis_client: Any = None,
        **options: Unpack[Options],
    ) -> None:
        """Connects with the first call, or at once with `follow_changes`.

        Args:
            config_service_url: where the service is, such as `http://flagstream:8082`. Default: the variable
                CONFIG_SERVICE_URL.
            environment: the environment of all calls that give none. Default: the variable ENVIRONMENT, else the service's own.
            cache_ttl: seconds for which an answer is cached. It turns the cache on. Default: 300, with `cache`,
                `follow_changes` or Redis.
            http_client: an `httpx2.Client` with its own TLS settings or proxies. It is closed with this client.
            redis_client: a `redis.Redis` with its own options, instead of `redis`. It is not closed with this client.

        Options, with times in seconds:
            token: an API token (`fst_…`). Default: None, an anonymous caller.
            timeout: the limit for a call with all its attempts. Default: 5.
            attempt_timeout: the limit for one attempt. Keep it above the 2 s that the service may wait for a version of
                its flags. Default: 3.
            max_retries: retries after a failure that may pass. Default: 2.
            backoff_base: the first retry waits a random part of this, each later one of twice as much. Default: 0.1.
            backoff_cap: the longest wait before a retry. Default: 2.
            failure_threshold: failed attempts in a row that open the circuit breaker. Default: 5.
            recovery_timeout: how long the circuit breaker stays open before one attempt is let through. Default: 60.
            cache: whether answers are cached in this process. A cached answer is no event in Kafka. With Redis, answers are
                kept in memory for `local_ttl` over those in Redis. Default: False.
            cache_max_entries: cached answers in memory at most; the least recently used one is evicted. Default: 10000.
            local_ttl: seconds for which an answer stays in memory, with `cache` and Redis. Default: 60.
            redis: a URL such as `redis://localhost:6379`. The booleans of users without context are shared there under the
                keys `ff_eval:…` for `cache_ttl`; an environment is required. Default: None.
            follow_changes: whether to read the stream `/api/v1/changes` and drop what a change made out of date. Turns the
                cache on; the token needs the scope `read`. Default: False.
            max_connections: open connections at most. Default: 100.
            on_error: called with each error that a default hides. Default: None, a warning in the log.
            traceparent: returns the header `traceparent` of a request, or None. Default: None.

        Raises:
            ValueError: an option is out of range, or the URL is not `http://…` or `https://…`.
        """
        self._settings = HttpSettings.of(
            base_url=config_service_url, environment=environment, cache_ttl=cache_ttl, redis_client=redis_client, **options
        )
        self._core: HttpCore = HttpCore(self._settings)
        has_redis = self._settings.has_redis
        self._redis = BlockingRedis(self._settings.redis, redis_client) if has_redis else None
        limits = httpx.Limits(max_connections=self._settings.max_connections + 1)
        self._http = http_client or httpx.Client(limits=limits)
        self._changes = Changes(self._core, self._settings.environment)
        self._following = threading.Event()
        self._closing = threading.Event()
        if self._settings.follow_changes:
            # It ends with the process: an open stream cannot be woken up.
            threading.Thread(target=self._follow, name="flagstream-changes", daemon=True).start()

    @property
    def is_following(self) -> bool:
        return self._following.is_set()

    def wait_until_following(self, timeout: float | None = None) -> None:
        if not self._following.wait(timeout):
            raise TimeoutError("changes do not arrive yet")

    def close(self) -> None:
        self._closing.set()
        self._http.close()
        if self._redis is not None:
            self._redis.close()

    def _run(self, steps: Steps[T]) -> T:
        return run(steps, self._do)

    def _do(self, step: Step) -> Any:
        match step:
            case Send():
                return self._send(step)
            case Wait():
                return self._closing.wait(step.seconds)
            case ReadRedis() if self._redis is not None:
                return self._redis.read(step.keys)
            case WriteRedis() if self._redis is not None:
                return self._redis.write(step.writes)
        raise AssertionError(step)

    def _send(self, send: Send) -> Reply:
        if self._http.is_closed:
            raise ConnectionFailedError("the client is closed")
        url = self._settings.base_url + send.path
        headers = {**self._settings.headers(), **send.headers}
        deadline = time.monotonic() + send.timeout_s
        try:
            with self._http.stream("POST", url, content=send.body, headers=headers, timeout=send.timeout_s) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise InvalidAnswerError("the answer is too large", response.status_code)
                    # The timeout is that of each read: an answer that trickles would go on for ever.
                    if time.monotonic() > deadline:
                        raise TimedOutError(f"no answer within {send.timeout_s:.3g} s")
                return Reply(response.status_code, response.headers, bytes(body))
        except httpx.TimeoutException as error:
            raise TimedOutError(f"no answer within {send.timeout_s:.3g} s") from error
        except httpx.HTTPError as error:
            raise ConnectionFailedError(str(error) or type(error).__name__) from error

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                self._listen()
            except Exception as error:
                # Whatever it is, also that the client was closed meanwhile: changes must arrive again.
                if not self._closing.is_set():
                    logger.warning("changes do not arrive: %s", error or type(error).__name__)
            finally:
                if self._following.is_set():
                    self._following.clear()
                    self._core.following.notify(False)
            self._closing.wait(self._changes.pause())

    def _listen(self) -> None:
        timeout = httpx.Timeout(self._settings.attempt_timeout, read=SILENCE_S)
        headers = {**self._settings.headers(), **self._changes.headers()}
        url = self._settings.base_url + self._changes.path
        with self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code != 200:
                raise error_of(response.status_code, response.headers, b"")
            self._core.breaker.may_be_well()
            for chunk in response.iter_bytes():
                if self._closing.is_set():
                    return
                if self._changes.feed(chunk) and not self._following.is_set():
                    self._following.set()
                    self._core.following.notify(True)
