"""The client over Kafka for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack

from ..calls import AsyncFlags, Who
from ..evaluation import Context, JsonValue, UserId, ValueType
from ..redis_cache import AsyncRedis
from ..steps import Await, ReadRedis, Run, Step, Steps, Wait, WriteRedis, run_async
from .changes import ChangeReader
from .core import KafkaCore
from .options import KafkaOptions, KafkaSettings
from .waiters import AsyncWaiter, Deliveries

T = TypeVar("T")

#: Interval at which a caller that waits checks whether the state has changed.
CHECK_INTERVAL_S = 0.01


class KafkaFeatureFlagClient(AsyncFlags):
    """A client of flagstream over Kafka for asyncio. Use one for the whole process, and close it, or use it as a context manager.

    Each call produces a request with `reply-to` and `correlation-id`, and returns when the reply arrives. One consumer
    reads the reply topic for all clients of the process. The calls are those of `FeatureFlagClient`.
    """

    def __init__(
        self,
        bootstrap_servers: str | None = None,
        environment: str | None = None,
        cache_ttl: float | None = None,
        *,
        redis_client: Any = None,
        **options: Unpack[KafkaOptions],
    ) -> None:
        """Connects at once, in the background.

        Args:
            bootstrap_servers: Kafka's addresses, such as `kafka:9092`. Default: the variable KAFKA_BOOTSTRAP_SERVERS.
            environment: the environment of all calls that give none. Default: the variable ENVIRONMENT, else the service's own.
            cache_ttl: seconds for which an answer is cached. It turns the cache on. Default: 300, with `cache`,
                `follow_changes` or Redis.
            redis_client: a `redis.asyncio.Redis` with its own options, instead of `redis`. It is not closed with this client.

        Options, with times in seconds:
            properties: properties of librdkafka, such as those of SASL and TLS. Default: none.
            reply_topic: the topic of the replies, which must exist and be allowed by the service. Without it only `request`
                and reports are possible. Default: None.
            requests_topic: the topic of the requests. Default: feature-flag-evaluation-requests.
            conversions_topic: the topic of conversions. Default: feature-flag-conversions.
            updates_topic: the topic that `follow_changes` reads. Default: feature-flag-updates.
            format: `JSON`, or an `AvroFormat`. Default: JSON.
            max_pending: requests that may wait for replies; further ones fail at once. Default: 10000.
            timeout: the limit for a call. Default: 5.
            failure_threshold: requests in a row without a reply that open the circuit breaker. Default: 5.
            recovery_timeout: how long the circuit breaker stays open before one request is let through. Default: 60.
            cache: whether answers are cached in this process. A cached answer is no event in Kafka. With Redis, answers are
                kept in memory for `local_ttl` over those in Redis. Default: False.
            cache_max_entries: cached answers in memory at most; the least recently used one is evicted. Default: 10000.
            local_ttl: seconds for which an answer stays in memory, with `cache` and Redis. Default: 60.
            redis: a URL such as `redis://localhost:6379`. The booleans of users without context are shared there under the
                keys `ff_eval:…` for `cache_ttl`; an environment is required. Default: None.
            follow_changes: whether to read `updates_topic` and drop what a change made out of date. Turns the cache on.
                Default: False.
            on_error: called with each error that a default hides. Default: None, a warning in the log.
            traceparent: returns the header `traceparent` of a request, or None. Default: None.

        Raises:
            ValueError: an option is out of range, or no servers are given.
        """
        self._settings = KafkaSettings.of(
            bootstrap_servers=bootstrap_servers,
            environment=environment,
            cache_ttl=cache_ttl,
            redis_client=redis_client,
            **options,
        )
        self._core: KafkaCore = KafkaCore(self._settings)
        has_redis = self._settings.has_redis
        self._redis = AsyncRedis(self._settings.redis, redis_client) if has_redis else None
        self._deliveries: Deliveries | None = None
        self._changes = None
        if self._settings.follow_changes:
            decode, topic = self._settings.format.decode, self._settings.updates_topic
            started = self._core.following.notify
            self._changes = ChangeReader(self._core, self._settings.properties, topic, decode, lambda: started(True))
            self._changes.start()

    async def request(
        self,
        flag_names: str | Sequence[str],
        user_id: UserId = None,
        context: Context | None = None,
        *,
        default_values: Mapping[str, JsonValue] | None = None,
        value_types: Mapping[str, ValueType] | None = None,
        wait: bool = False,
        **who: Unpack[Who],
    ) -> str:
        """Sends a request without a reply, for services that read the results from the events topic; returns its id.

        The events carry the id. The request is in the producer's queue then, and a later failure is logged, or given to
        `on_error`. With `wait` the call returns when Kafka has the request, and raises a `FlagstreamError` if it has not
        within `timeout`; Kafka may still receive it afterwards.
        """
        flags = [flag_names] if isinstance(flag_names, str) else list(flag_names)
        question = self._question(user_id, context, who)
        return await self._run(self._core.request(flags, question, default_values or {}, value_types or {}, wait))

    @property
    def late_replies(self) -> int:
        """How many replies arrived after their deadline, since the client was created."""
        return self._core.pending.late

    @property
    def pending_requests(self) -> int:
        """How many requests wait for a reply."""
        return len(self._core.pending)

    @property
    def is_following(self) -> bool:
        return self._changes is not None and self._changes.following.is_set()

    async def wait_until_following(self, timeout: float | None = None) -> None:
        changes = self._changes
        if changes is None:
            raise TimeoutError("follow_changes is not set")
        await _wait(changes.following, timeout, lambda: changes.problem)

    async def wait_until_ready(self, timeout: float | None = None) -> None:
        """Returns once replies are read; raises TimeoutError after `timeout` seconds. Without it, the first calls wait."""
        await _wait(self._core.pending.is_ready, timeout, lambda: self._core.problem)

    async def close(self) -> None:
        # Threads end, and messages are sent.
        await asyncio.to_thread(self._close)
        if self._redis is not None:
            await self._redis.close()

    def _close(self) -> None:
        if self._changes is not None:
            self._changes.close()
        self._core.close()

    async def _run(self, steps: Steps[T]) -> T:
        return await run_async(steps, self._do)

    async def _do(self, step: Step) -> Any:
        match step:
            case Await():
                waiter = AsyncWaiter(self._in_loop())
                step.start(waiter)
                return await waiter.wait(step)
            case Wait():
                return await asyncio.sleep(step.seconds)
            case Run():
                return await asyncio.to_thread(step.function)
            case ReadRedis() if self._redis is not None:
                return await self._redis.read(step.keys)
            case WriteRedis() if self._redis is not None:
                return await self._redis.write(step.writes)
        raise AssertionError(step)

    def _in_loop(self) -> Deliveries:
        loop = asyncio.get_running_loop()
        if self._deliveries is None or self._deliveries.loop is not loop:
            self._deliveries = Deliveries(loop)
        return self._deliveries


async def _wait(event: threading.Event, timeout: float | None, problem: Callable[[], str | None]) -> None:
    """Waits for an event of a thread without a thread that waits."""
    try:
        async with asyncio.timeout(timeout):
            while not event.is_set():
                await asyncio.sleep(CHECK_INTERVAL_S)
    except TimeoutError:
        raise TimeoutError(problem() or "Kafka does not answer") from None
