"""How a client over Kafka asks the service.

```text
 call ─► KafkaCore: request with `reply-to` and `correlation-id` ─► RequestProducer ─► requests topic
                                                                                          │ service
 answer ◄── waiter ◄── PendingReplies ◄── ReplyReader ◄── reply topic ◄───────────────────┘
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from ..core import Core
from ..errors import FieldError, FlagstreamError, InvalidAnswerError, InvalidRequestError, TimedOutError, UnavailableError
from ..evaluation import Conversion, Evaluation, JsonValue, Metadata, Question, ValueType, instant, many
from ..http_core import many_body, one_body
from ..steps import Await, Run, Steps, Wait, Waiter
from .options import KafkaSettings
from .producer import RequestProducer
from .replies import CORRELATION_ID, PendingReplies, ReplyReader

MAX_NAME_BYTES = 255
MAX_FLAGS_COUNT = 1_000
REQUEST = "EvaluationRequest"
CONVERSION = "Conversion"
#: Wait between two requests of a call that needs a version which the service does not have yet.
VERSION_RETRY_S = 0.1
VALUE_TYPES: tuple[str, ...] = get_args(ValueType)


class KafkaCore(Core):
    """The logic of a client over Kafka."""

    settings: KafkaSettings

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(settings)
        self.producer = RequestProducer(settings.properties)
        self.pending = PendingReplies(settings.max_pending, settings.format, self.breaker)
        topic = settings.reply_topic
        self._reply_to = None if topic is None else ("reply-to", topic.encode())
        self.reader = (
            None if topic is None else ReplyReader.acquire(settings.properties, topic, self.pending.client, self.pending)
        )

    @property
    def address(self) -> str:
        return str(self.settings.properties["bootstrap.servers"])

    @property
    def problem(self) -> str | None:
        """Why no replies arrive, as far as it is known."""
        return (self.reader.problem if self.reader is not None else None) or self.producer.problem

    def close(self) -> None:
        """Ends all requests, and sends what is in the producer's queue."""
        if self.reader is not None:
            self.reader.release(self.pending.client)
        self.pending.close()
        self.producer.close()

    def ask(
        self, flag: str, question: Question, default: JsonValue, value_type: ValueType | None, min_version: int | None
    ) -> Steps[Evaluation]:
        body = one_body(flag, question, default, value_type)
        return many((yield from self._exchange([flag], body, min_version)), [flag])[flag]

    def ask_many(
        self,
        flags: Sequence[str],
        question: Question,
        defaults: Mapping[str, JsonValue],
        value_types: Mapping[str, ValueType],
        min_version: int | None,
    ) -> Steps[dict[str, Evaluation]]:
        body = many_body(flags, question, defaults, value_types)
        return many((yield from self._exchange(flags, body, min_version)), flags)

    def expose(self, flag: str, question: Question) -> Steps[None]:
        yield from self.request([flag], question, {}, {flag: "string"}, wait=False)

    def convert(self, conversion: Conversion, question: Question) -> Steps[None]:
        assert question.user_id is not None
        environment = {} if question.environment is None else {"environment": question.environment}
        body = {"experiment": conversion.experiment, **environment, **conversion.body(question.user_id)}
        yield from self._prepare(self.settings.conversions_topic, CONVERSION)
        message = self.settings.format.encode(self.settings.conversions_topic, CONVERSION, body)
        self._send_alone(self.settings.conversions_topic, question, message, conversion.metric)

    def send_metric(self, metric: str, question: Question, value: float | None, metadata: Metadata | None) -> Steps[None]:
        yield from ()
        raise InvalidRequestError("Kafka needs the name of the experiment: use track_conversion, or a client over HTTP")

    def request(
        self,
        flags: Sequence[str],
        question: Question,
        defaults: Mapping[str, JsonValue],
        value_types: Mapping[str, ValueType],
        wait: bool,
    ) -> Steps[str]:
        """Sends a request without a reply; the result is its id."""
        if len(flags) == 1:
            body = one_body(flags[0], question, defaults.get(flags[0]), value_types.get(flags[0]))
        else:
            body = many_body(flags, question, defaults, value_types)
        request_id = self.pending.next_id()
        yield from self._prepare(self.settings.requests_topic, REQUEST)
        message = self._encode_request(flags, body, request_id)
        if wait:
            yield self._confirmation(self.settings.requests_topic, question, message)
        else:
            self._send_alone(self.settings.requests_topic, question, message, request_id)
        return request_id

    def _exchange(self, flags: Sequence[str], body: dict[str, JsonValue], min_version: int | None) -> Steps[JsonValue]:
        """Sends a request and awaits its reply. Kafka's requests cannot wait for a version, so they are repeated."""
        if self._reply_to is None:
            raise InvalidRequestError("no reply topic is set: set reply_topic, or use request")
        deadline = self.settings.clock() + self.settings.timeout
        yield from self._prepare(self.settings.requests_topic, REQUEST)
        while True:
            correlation_id = self.pending.next_id()
            message = self._encode_request(flags, body, correlation_id)
            reply = yield self._round_trip(correlation_id, body.get("user_id"), message, deadline)
            version = reply.get("flags_version") if isinstance(reply, dict) else None
            if not isinstance(version, int):
                raise InvalidAnswerError("unexpected reply: flags_version is missing")
            if version >= (min_version or 0):
                return reply
            if deadline - self.settings.clock() <= VERSION_RETRY_S:
                raise UnavailableError(f"flags version {min_version} is not in force yet; the current version is {version}")
            yield Wait(VERSION_RETRY_S)

    def _round_trip(self, correlation_id: str, user: JsonValue, message: bytes, deadline: float) -> Await:
        assert self._reply_to is not None
        headers = self._headers(self._reply_to, (CORRELATION_ID, correlation_id.encode()))

        def delivered(error: FlagstreamError | None) -> None:
            if error is not None:
                self.pending.fail(correlation_id, error)

        def send() -> None:
            self.producer.send(self.settings.requests_topic, _key(user), message, headers, delivered)

        return Await(
            start=lambda waiter: self.pending.add(correlation_id, waiter, send),
            expire=lambda: self.pending.expire(correlation_id, self._timed_out("no reply")),
            abandon=lambda: self.pending.abandon(correlation_id),
            timeout_s=max(0.0, deadline - self.settings.clock()),
        )

    def _confirmation(self, topic: str, question: Question, message: bytes) -> Await:
        """Sends a message; the result comes when Kafka has it."""
        taken: list[None] = [None]

        def take() -> bool:
            # `list.pop` is atomic: only one thread gets the element.
            try:
                taken.pop()
            except IndexError:
                return False
            return True

        def start(waiter: Waiter) -> None:
            def delivered(error: FlagstreamError | None) -> None:
                if take():
                    waiter.set(error)

            self.producer.send(topic, _key(question.user_id), message, self._headers(), delivered)

        def expire() -> FlagstreamError | None:
            return self._timed_out("Kafka does not have the request") if take() else None

        return Await(start, expire, abandon=lambda: None, timeout_s=self.settings.timeout)

    def _send_alone(self, topic: str, question: Question, message: bytes, what: str) -> None:
        """Sends a message that no caller waits for."""

        def delivered(error: FlagstreamError | None) -> None:
            if error is not None:
                self.hide(error, what)

        self.producer.send(topic, _key(question.user_id), message, self._headers(), delivered)

    def _encode_request(self, flags: Sequence[str], body: dict[str, JsonValue], request_id: str) -> bytes:
        _check(flags, body)
        whole = {"request_id": request_id, **body, "requested_at": instant()}
        return self.settings.format.encode(self.settings.requests_topic, REQUEST, whole)

    def _prepare(self, topic: str, record: str) -> Steps[None]:
        """Makes sure that messages can be encoded without blocking."""
        message_format = self.settings.format
        if not message_format.is_prepared(topic, record):
            yield Run(lambda: message_format.prepare(topic, record))

    def _headers(self, *headers: tuple[str, bytes]) -> list[tuple[str, bytes]]:
        trace = None if self.settings.traceparent is None else self.settings.traceparent()
        return [*headers] if trace is None else [*headers, ("traceparent", trace.encode())]

    def _timed_out(self, what: str) -> TimedOutError:
        reason = f": {self.problem}" if self.problem else ""
        return TimedOutError(f"{what} within {self.settings.timeout:g} s{reason}")


def _key(user: JsonValue) -> str | None:
    return None if user is None else str(user)


def _check(flags: Sequence[str], body: Mapping[str, JsonValue]) -> None:
    """Rejects what the service would answer with a dead letter, and not with a reply."""
    if not 1 <= len(flags) <= MAX_FLAGS_COUNT:
        _refuse("flag_names", f"expected 1 to {MAX_FLAGS_COUNT} flags, got {len(flags)}")
    for flag in flags:
        length = len(flag.encode())
        if not 1 <= length <= MAX_NAME_BYTES:
            _refuse("flag_name", f"expected a name of 1 to {MAX_NAME_BYTES} bytes, got {length}")
    for value_type in (body.get("value_type"), *body.get("value_types", {}).values()):
        if value_type is not None and value_type not in VALUE_TYPES:
            _refuse("value_type", f"expected one of {', '.join(VALUE_TYPES)}, got {value_type!r}")


def _refuse(field: str, message: str) -> None:
    raise InvalidRequestError(f"{field}: {message}", errors=(FieldError(field, message),))
