"""The client for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypedDict, TypeVar, Unpack

import httpx2 as httpx

from .changes import SILENCE_S, Changes
from .core import MAX_ANSWER_BYTES, Core, Reply, Send, Steps, Wait, logger
from .errors import ConnectionFailedError, FlagstreamError, InvalidAnswerError, TimedOutError, error_of
from .evaluation import Context, Evaluation, JsonValue, Question
from .options import Options, Settings

T = TypeVar("T")


class Who(TypedDict, total=False):
    """What any question may say beside its flags and its user."""

    session_id: str
    environment: str


class FeatureFlagClient:
    """Asks flagstream. Make one, share it, close it (or use it as a context manager).

    `is_enabled`, `evaluate_flag`, `batch_evaluate` and `bulk_evaluate_flags` always answer: with the default if
    the service does not. `evaluate` and `evaluate_many` raise a [`FlagstreamError`] instead.
    """

    def __init__(
        self,
        config_service_url: str,
        environment: str | None = None,
        cache_ttl: float = 300,
        *,
        http_client: httpx.AsyncClient | None = None,
        **options: Unpack[Options],
    ) -> None:
        """`http_client` brings own TLS settings or proxies; it is closed with this."""
        self._settings = Settings.of(config_service_url, environment, cache_ttl, **options)
        self._core = Core(self._settings)
        # One more than wanted: the stream of changes has a connection of its own.
        limits = httpx.Limits(max_connections=self._settings.max_connections + 1)
        self._http = http_client or httpx.AsyncClient(limits=limits)
        self._changes = Changes(self._core.cache, environment)
        self._following = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None

    async def is_enabled(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default: bool = False,
        context: Context | None = None,
        **who: Unpack[Who],
    ) -> bool:
        return await self._run(self._core.is_enabled(flag_name, self._question(user_id, context, who), default))

    async def evaluate_flag(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default_value: JsonValue = None,
        context: Context | None = None,
        *,
        value_type: str | None = None,
        **who: Unpack[Who],
    ) -> JsonValue:
        """The value, of the type of `default_value` (or `value_type`)."""
        question = self._question(user_id, context, who)
        return await self._run(self._core.value_or_default(flag_name, question, default_value, value_type))

    async def batch_evaluate(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        default: bool = False,
        context: Context | None = None,
        **who: Unpack[Who],
    ) -> dict[str, bool]:
        """Many flags at once, as booleans."""
        return await self._run(self._core.batch(flag_names, self._question(user_id, context, who), default))

    async def bulk_evaluate_flags(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        context: Context | None = None,
        *,
        default_values: Mapping[str, JsonValue] | None = None,
        value_types: Mapping[str, str] | None = None,
        **who: Unpack[Who],
    ) -> dict[str, dict[str, JsonValue]]:
        """Many flags at once, each with `value`, `enabled`, `variant`, `reason`, …; `ERROR` where the default stands in."""
        question = self._question(user_id, context, who)
        steps = self._core.bulk(flag_names, question, default_values or {}, value_types or {})
        return {flag: evaluation.as_dict() for flag, evaluation in (await self._run(steps)).items()}

    async def evaluate(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default_value: JsonValue = None,
        context: Context | None = None,
        *,
        value_type: str | None = None,
        min_version: int | None = None,
        **who: Unpack[Who],
    ) -> Evaluation:
        """All that the service says, or an error. `min_version` waits for a version to be in force."""
        question = self._question(user_id, context, who)
        return await self._run(self._core.evaluate(flag_name, question, default_value, value_type, min_version))

    async def evaluate_many(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        context: Context | None = None,
        *,
        default_values: Mapping[str, JsonValue] | None = None,
        value_types: Mapping[str, str] | None = None,
        min_version: int | None = None,
        **who: Unpack[Who],
    ) -> dict[str, Evaluation]:
        question = self._question(user_id, context, who)
        steps = self._core.evaluate_many(flag_names, question, default_values or {}, value_types or {}, min_version)
        return await self._run(steps)

    def invalidate(self, version: int, environment: str | None = None) -> None:
        """Answers that don't know of this version are kept no longer (of all environments, if none is named)."""
        self._core.cache.invalidate(version, environment)

    def clear_cache(self) -> None:
        self._core.cache.clear()

    @property
    def is_following(self) -> bool:
        """Whether changes are heard of right now."""
        return self._following.is_set()

    async def wait_until_following(self, timeout: float | None = None) -> None:
        """Starts to follow changes, and returns when they are heard of; TimeoutError if that takes longer."""
        self._follow_if_wanted()
        async with asyncio.timeout(timeout):
            await self._following.wait()

    async def close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        self._follow_if_wanted()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _question(self, user_id: str | int | None, context: Context | None, who: Who) -> Question:
        return Question(who.get("environment") or self._settings.environment, user_id, who.get("session_id"), context)

    async def _run(self, steps: Steps[T]) -> T:
        self._follow_if_wanted()
        # Closed whatever happens: a cancelled attempt must not stay counted as under way.
        with contextlib.closing(steps):
            try:
                step = next(steps)
                while True:
                    try:
                        reply = await self._do(step)
                    except FlagstreamError as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result

    async def _do(self, step: Send | Wait) -> Reply | None:
        if isinstance(step, Send):
            return await self._send(step)
        await asyncio.sleep(step.seconds)
        return None

    async def _send(self, send: Send) -> Reply:
        if self._http.is_closed:
            raise ConnectionFailedError("the client is closed")
        url = self._settings.base_url + send.path
        headers = {**self._settings.headers(), **send.headers}
        try:
            async with asyncio.timeout(send.timeout_s):
                request = self._http.stream("POST", url, content=send.body, headers=headers, timeout=send.timeout_s)
                async with request as response:
                    body = bytearray()
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_ANSWER_BYTES:
                            raise InvalidAnswerError("the answer is too large", response.status_code)
                    return Reply(response.status_code, response.headers, bytes(body))
        except (httpx.TimeoutException, TimeoutError) as error:
            raise TimedOutError(f"no answer within {send.timeout_s:.3g} s") from error
        except httpx.HTTPError as error:
            raise ConnectionFailedError(str(error) or type(error).__name__) from error

    def _follow_if_wanted(self) -> None:
        if self._settings.follow_changes and self._follower is None:
            self._follower = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            try:
                await self._listen()
            except (httpx.HTTPError, FlagstreamError) as error:
                logger.warning("changes are not heard of: %s", error or type(error).__name__)
            finally:
                self._following.clear()
            await asyncio.sleep(self._changes.pause())

    async def _listen(self) -> None:
        timeout = httpx.Timeout(self._settings.attempt_timeout, read=SILENCE_S)
        headers = {**self._settings.headers(), **self._changes.headers()}
        url = self._settings.base_url + self._changes.path
        async with self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code != 200:
                raise error_of(response.status_code, response.headers, b"")
            self._core.breaker.may_be_well()
            async for chunk in response.aiter_bytes():
                if self._changes.feed(chunk):
                    self._following.set()


#: The name that services know from before.
FeatureFlagsClient = FeatureFlagClient
