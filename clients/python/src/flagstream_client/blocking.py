"""The client for threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx2 as httpx

from .changes import SILENCE_S, Changes
from .client import Who
from .core import MAX_ANSWER_BYTES, Core, Reply, Send, Steps, Wait, logger
from .errors import ConnectionFailedError, FlagstreamError, InvalidAnswerError, TimedOutError, error_of
from .evaluation import Context, Evaluation, JsonValue, Question
from .options import Options, Settings

T = TypeVar("T")


class SyncFeatureFlagClient:
    """[`FeatureFlagClient`](client.py) for code that blocks. Any number of threads may share one."""

    def __init__(
        self,
        config_service_url: str,
        environment: str | None = None,
        cache_ttl: float = 300,
        *,
        http_client: httpx.Client | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._settings = Settings.of(config_service_url, environment, cache_ttl, **options)
        self._core = Core(self._settings)
        limits = httpx.Limits(max_connections=self._settings.max_connections + 1)
        self._http = http_client or httpx.Client(limits=limits)
        self._changes = Changes(self._core.cache, environment)
        self._following = threading.Event()
        self._closing = threading.Event()
        if self._settings.follow_changes:
            # It ends with the process: an open stream cannot be woken up.
            threading.Thread(target=self._follow, name="flagstream-changes", daemon=True).start()

    def is_enabled(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default: bool = False,
        context: Context | None = None,
        **who: Unpack[Who],
    ) -> bool:
        return self._run(self._core.is_enabled(flag_name, self._question(user_id, context, who), default))

    def evaluate_flag(
        self,
        flag_name: str,
        user_id: str | int | None = None,
        default_value: JsonValue = None,
        context: Context | None = None,
        *,
        value_type: str | None = None,
        **who: Unpack[Who],
    ) -> JsonValue:
        question = self._question(user_id, context, who)
        return self._run(self._core.value_or_default(flag_name, question, default_value, value_type))

    def batch_evaluate(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        default: bool = False,
        context: Context | None = None,
        **who: Unpack[Who],
    ) -> dict[str, bool]:
        return self._run(self._core.batch(flag_names, self._question(user_id, context, who), default))

    def bulk_evaluate_flags(
        self,
        flag_names: Sequence[str],
        user_id: str | int | None = None,
        context: Context | None = None,
        *,
        default_values: Mapping[str, JsonValue] | None = None,
        value_types: Mapping[str, str] | None = None,
        **who: Unpack[Who],
    ) -> dict[str, dict[str, JsonValue]]:
        question = self._question(user_id, context, who)
        steps = self._core.bulk(flag_names, question, default_values or {}, value_types or {})
        return {flag: evaluation.as_dict() for flag, evaluation in self._run(steps).items()}

    def evaluate(
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
        question = self._question(user_id, context, who)
        return self._run(self._core.evaluate(flag_name, question, default_value, value_type, min_version))

    def evaluate_many(
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
        return self._run(steps)

    def invalidate(self, version: int, environment: str | None = None) -> None:
        self._core.cache.invalidate(version, environment)

    def clear_cache(self) -> None:
        self._core.cache.clear()

    @property
    def is_following(self) -> bool:
        return self._following.is_set()

    def wait_until_following(self, timeout: float | None = None) -> None:
        if not self._following.wait(timeout):
            raise TimeoutError("changes are not heard of yet")

    def close(self) -> None:
        self._closing.set()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _question(self, user_id: str | int | None, context: Context | None, who: Who) -> Question:
        return Question(who.get("environment") or self._settings.environment, user_id, who.get("session_id"), context)

    def _run(self, steps: Steps[T]) -> T:
        with contextlib.closing(steps):
            try:
                step = next(steps)
                while True:
                    try:
                        reply = self._do(step)
                    except FlagstreamError as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result

    def _do(self, step: Send | Wait) -> Reply | None:
        if isinstance(step, Send):
            return self._send(step)
        self._closing.wait(step.seconds)
        return None

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
                # Whatever it is, also that the client was closed meanwhile: changes must be heard of again.
                if not self._closing.is_set():
                    logger.warning("changes are not heard of: %s", error or type(error).__name__)
            finally:
                self._following.clear()
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
                if self._changes.feed(chunk):
                    self._following.set()
