"""The replies to the requests of this process.

```text
 reply topic ─► ReplyReader (one thread for all clients) ─► PendingReplies of the client ─► waiter of the request
```
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from ..breaker import Breaker
from ..core import logger
from ..errors import ConnectionFailedError, FlagstreamError, InvalidAnswerError, RateLimitedError, TimedOutError
from ..steps import Waiter
from .formats import MessageFormat
from .properties import consumer_properties, is_outage

#: Separates a client's id from the number of its request in a correlation id.
SEPARATOR = "."
CORRELATION_ID = "correlation-id"
MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
POLL_S = 0.1
LOOKUP_TIMEOUT_S = 10.0
RETRY_INTERVAL_S = 1.0
#: Interval at which new partitions are noticed: replies to their keys would be missed otherwise.
PARTITIONS_INTERVAL_S = 5.0
#: How long the reader may wait for the broker when it looks for new partitions.
PARTITIONS_TIMEOUT_S = 1.0
MAX_BATCH_RECORDS = 1_000


class Sink(Protocol):
    """Receives the replies of one client."""

    def reply(self, correlation_id: str, message: bytes) -> None:
        """Takes a reply."""

    def ready(self) -> None:
        """From now on, every reply to a request is read."""


class PendingReplies:
    """The requests of one client that wait for replies. For any number of threads."""

    def __init__(self, max_pending: int, message_format: MessageFormat, breaker: Breaker) -> None:
        self.client = secrets.token_hex(8)
        self._max_pending = max_pending
        self._format = message_format
        self._breaker = breaker
        # `dict.pop` is atomic: only one thread gets a waiter, and sets it.
        self._waiting: dict[str, Waiter] = {}
        self._unsent: dict[str, Callable[[], None]] = {}
        self._numbers = count()
        self._late = 0
        self._closed = False
        #: Whether every reply to a request is read.
        self.is_ready = threading.Event()
        self._lock = threading.Lock()

    @property
    def late(self) -> int:
        """How many replies arrived after their deadline."""
        return self._late

    def __len__(self) -> int:
        return len(self._waiting)

    def next_id(self) -> str:
        """An id that no other request of any client has."""
        return f"{self.client}{SEPARATOR}{next(self._numbers)}"

    def add(self, correlation_id: str, waiter: Waiter, send: Callable[[], None]) -> None:
        """Registers a request, and sends it once its reply will be read.

        Raises a `FlagstreamError` if too many wait, or if the circuit breaker is open.
        """
        if self._closed:
            raise ConnectionFailedError("the client is closed")
        if len(self._waiting) >= self._max_pending:
            raise RateLimitedError(f"{self._max_pending} requests wait for replies, which is the limit")
        self._breaker.enter()
        self._waiting[correlation_id] = waiter
        if not self.is_ready.is_set():
            with self._lock:
                if not self.is_ready.is_set():
                    self._unsent[correlation_id] = send
                    return
        self._send(correlation_id, send)

    def ready(self) -> None:
        with self._lock:
            self.is_ready.set()
            unsent, self._unsent = self._unsent, {}
        for correlation_id, send in unsent.items():
            if correlation_id in self._waiting:
                self._send(correlation_id, send)

    def reply(self, correlation_id: str, message: bytes) -> None:
        waiter = self._waiting.pop(correlation_id, None)
        if waiter is None:
            self._late += 1
            self._breaker.may_be_well()
            return
        self._breaker.succeeded()
        try:
            body = self._format.decode(message)
        except FlagstreamError as error:
            waiter.set(error)
            return
        waiter.set(InvalidAnswerError("the reply is not JSON; for replies in Avro set format=AvroFormat(…)") if body is None else body)

    def fail(self, correlation_id: str, error: FlagstreamError) -> None:
        """Ends a request with an error."""
        waiter = self._waiting.pop(correlation_id, None)
        if waiter is not None:
            self._count(error)
            waiter.set(error)

    def expire(self, correlation_id: str, error: FlagstreamError) -> FlagstreamError | None:
        """Removes a request whose deadline is over; None if it was answered at the same moment."""
        self._unsent.pop(correlation_id, None)
        if self._waiting.pop(correlation_id, None) is None:
            return None
        self._count(error)
        return error

    def abandon(self, correlation_id: str) -> None:
        """Removes a request whose caller no longer waits."""
        self._unsent.pop(correlation_id, None)
        if self._waiting.pop(correlation_id, None) is not None:
            self._breaker.abandoned()

    def close(self) -> None:
        """Ends all requests."""
        self._closed = True
        for correlation_id in list(self._waiting):
            waiter = self._waiting.pop(correlation_id, None)
            if waiter is not None:
                waiter.set(ConnectionFailedError("the client was closed"))

    def _send(self, correlation_id: str, send: Callable[[], None]) -> None:
        try:
            send()
        except FlagstreamError as error:
            self.fail(correlation_id, error)

    def _count(self, error: FlagstreamError) -> None:
        """Counts a failure against the service, if the service may be the cause."""
        if isinstance(error, (TimedOutError, ConnectionFailedError)):
            self._breaker.failed()
        else:
            self._breaker.abandoned()


class ReplyReader:
    """Reads a reply topic for all clients of the process that use it, without a consumer group."""

    _shared: dict[tuple[object, ...], ReplyReader] = {}
    _shared_lock = threading.Lock()

    def __init__(self, key: tuple[object, ...], properties: Mapping[str, Any], topic: str) -> None:
        self._key = key
        self._topic = topic
        self._properties = properties
        self._sinks: dict[str, Sink] = {}
        self._positions: dict[int, int] = {}
        self._ready = False
        self._closing = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="flagstream-replies", daemon=True)

    @classmethod
    def acquire(cls, properties: Mapping[str, Any], topic: str, client: str, sink: Sink) -> ReplyReader:
        """The process's reader of a topic, with the client registered."""
        key = (topic, *sorted((name, str(value)) for name, value in properties.items()))
        with cls._shared_lock:
            reader = cls._shared.get(key)
            # After a fork the thread is missing.
            if reader is None or not reader._thread.is_alive():
                reader = cls._shared[key] = cls(key, properties, topic)
                reader._thread.start()
            reader._sinks[client] = sink
            is_ready = reader._ready
        if is_ready:
            sink.ready()
        return reader

    def release(self, client: str) -> None:
        """Removes a client; the last one ends the reader."""
        with self._shared_lock:
            self._sinks.pop(client, None)
            if not self._sinks:
                if self._shared.get(self._key) is self:
                    del self._shared[self._key]
                self._closing.set()

    @property
    def problem(self) -> str | None:
        """Why no replies are read, or None."""
        return self._problem

    def _run(self) -> None:
        consumer = Consumer({**consumer_properties(self._properties), "error_cb": self._lost})
        try:
            while not self._closing.is_set() and not self._locate(consumer):
                self._closing.wait(RETRY_INTERVAL_S)
            self._read(consumer)
        finally:
            consumer.close()

    def _locate(self, consumer: Consumer) -> bool:
        """Assigns all partitions at their ends; whether that was possible."""
        try:
            for partition in self._partitions(consumer, LOOKUP_TIMEOUT_S):
                place = TopicPartition(self._topic, partition)
                self._positions[partition] = consumer.get_watermark_offsets(place, LOOKUP_TIMEOUT_S)[1]
        except KafkaException as error:
            self._failed(f"reply topic {self._topic}: {error.args[0].str()}")
            return False
        if not self._positions:
            self._failed(f"reply topic {self._topic} does not exist, or may not be read; create it")
            return False
        consumer.assign([TopicPartition(self._topic, *place) for place in self._positions.items()])
        self._problem = None
        with self._shared_lock:
            self._ready = True
            sinks = list(self._sinks.values())
        for sink in sinks:
            sink.ready()
        return True

    def _read(self, consumer: Consumer) -> None:
        next_look = time.monotonic() + PARTITIONS_INTERVAL_S
        while not self._closing.is_set():
            first = consumer.poll(POLL_S)
            if first is not None:
                self._dispatch(first)
                # `consume` waits for as many as it may return, so it takes only what is there.
                for message in consumer.consume(MAX_BATCH_RECORDS, 0):
                    self._dispatch(message)
            if time.monotonic() >= next_look:
                self._add_partitions(consumer)
                next_look = time.monotonic() + PARTITIONS_INTERVAL_S

    def _dispatch(self, message: Message) -> None:
        error, value = message.error(), message.value()
        if error is not None:
            self._failed(f"reply topic {self._topic}: {error.str()}")
            return
        for name, header in reversed(message.headers() or ()):
            if name == CORRELATION_ID and header is not None and value is not None:
                correlation_id = header if isinstance(header, str) else header.decode(errors="replace")
                # Replies to other processes are in the topic, too.
                sink = self._sinks.get(correlation_id.partition(SEPARATOR)[0])
                if sink is not None:
                    sink.reply(correlation_id, value)
                return

    def _add_partitions(self, consumer: Consumer) -> None:
        try:
            added = [known for known in self._partitions(consumer, PARTITIONS_TIMEOUT_S) if known not in self._positions]
        except KafkaException as error:
            if self._problem is None:
                self._failed(f"reply topic {self._topic}: {error.args[0].str()}")
            return
        self._problem = None
        if added:
            # From their beginning: replies may have been written before they were noticed.
            self._positions.update(dict.fromkeys(added, OFFSET_BEGINNING))
            consumer.incremental_assign([TopicPartition(self._topic, partition, OFFSET_BEGINNING) for partition in added])
            logger.info("reply topic %s has %d partitions now", self._topic, len(self._positions))

    def _partitions(self, consumer: Consumer, timeout_s: float) -> list[int]:
        metadata = consumer.list_topics(self._topic, timeout_s).topics[self._topic]
        if metadata.error is not None and metadata.error.code() not in MISSING:
            raise KafkaException(metadata.error)
        return list(metadata.partitions)

    def _lost(self, error: KafkaError) -> None:
        if is_outage(error):
            self._failed(f"reply topic {self._topic}: Kafka is unreachable: {error.str()}")

    def _failed(self, problem: str) -> None:
        if problem != self._problem:
            logger.warning("%s", problem)
        self._problem = problem
