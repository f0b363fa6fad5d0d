"""Changes from the topic `feature-flag-updates`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ..announcements import parse_change, parse_json
from ..calls import Calls
from ..core import Core, logger
from .options import UPDATES_TOPIC
from .properties import consumer_properties, is_outage

POLL_S = 0.1
LOOKUP_TIMEOUT_S = 10.0
RETRY_INTERVAL_S = 1.0
CLOSE_TIMEOUT_S = 1.0
#: Records before the end that are read first, so that answers from before the start are compared with them.
LOOK_BACK_RECORDS = 100


class ChangeReader:
    """Reports each change to the core of a client, from a thread of its own.

    Each process needs every message, so the reader belongs to no consumer group and commits nothing.
    """

    def __init__(
        self,
        core: Core,
        properties: Mapping[str, Any],
        topic: str,
        decode: Callable[[bytes], Any],
        started: Callable[[], None] = lambda: None,
    ) -> None:
        self._core = core
        self._properties = {**consumer_properties(properties), "error_cb": self._lost}
        self._topic = topic
        self._decode = decode
        self._started = started
        self._ends: dict[int, int] = {}
        self._problem: str | None = None
        self._closing = threading.Event()
        self.following = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flagstream-changes", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why no changes arrive, or None."""
        return self._problem

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            # It may be in a lookup that Kafka does not answer; then it ends by itself.
            self._thread.join(CLOSE_TIMEOUT_S)
        self.following.clear()

    def _run(self) -> None:
        consumer = Consumer(self._properties)
        try:
            while not self._closing.is_set() and not self._locate(consumer):
                self._closing.wait(RETRY_INTERVAL_S)
            # librdkafka reconnects by itself, and goes on where it was.
            while not self._closing.is_set():
                message = consumer.poll(POLL_S)
                if message is not None:
                    self._take(message)
        finally:
            consumer.close()

    def _locate(self, consumer: Consumer) -> bool:
        places = []
        try:
            metadata = consumer.list_topics(self._topic, LOOKUP_TIMEOUT_S).topics[self._topic]
            if metadata.error is not None:
                raise KafkaException(metadata.error)
            for partition in metadata.partitions:
                first, end = consumer.get_watermark_offsets(TopicPartition(self._topic, partition), LOOKUP_TIMEOUT_S)
                self._ends[partition] = end
                places.append(TopicPartition(self._topic, partition, max(first, end - LOOK_BACK_RECORDS)))
        except KafkaException as error:
            self._failed(f"{self._topic}: no changes arrive: {error.args[0].str()}")
            return False
        consumer.assign(places)
        self._problem = None
        self.following.set()
        self._started()
        return True

    def _take(self, message: Message) -> None:
        error, value = message.error(), message.value()
        if error is not None:
            self._failed(f"{self._topic}: {error.str()}")
            return
        self._problem = None
        if value is None:
            return
        try:
            event = self._decode(value)
        except Exception as failure:  # noqa: BLE001 Whatever a function of the caller raises.
            event = failure
        change = parse_change(event)
        if change is None:
            text = "%s offset %s: not a change that this client can read: %r; all cached answers are dropped"
            logger.warning(text, self._topic, message.offset(), event if event is not None else value[:200])
            # What it makes stale is unknown.
            self._core.cache.clear()
        elif (message.offset() or 0) < self._ends.get(message.partition() or 0, 0):
            # From before the start: no news for the listeners.
            self._core.cache.announce(change)
        else:
            self._core.change(change)

    def _lost(self, error: KafkaError) -> None:
        if is_outage(error):
            self._failed(f"{self._topic}: no changes arrive: Kafka is unreachable: {error.str()}")

    def _failed(self, problem: str) -> None:
        if problem != self._problem:
            logger.warning("%s", problem)
        self._problem = problem


class KafkaInvalidations:
    """Reports the changes of a topic to a client with a cache, which drops what a change made out of date.

    `kafka` are properties of librdkafka; `bootstrap.servers` is required. Messages are JSON, or what `deserialize` makes of
    them, such as `decode` of an `AvroFormat` or confluent-kafka's `AvroDeserializer`.
    """

    def __init__(
        self,
        client: Calls,
        kafka: Mapping[str, Any],
        topic: str = UPDATES_TOPIC,
        deserialize: Callable[[bytes], Any] | None = None,
    ) -> None:
        self._topic = topic
        self._reader = ChangeReader(client._core, kafka, topic, deserialize or parse_json)

    def start(self, timeout: float = LOOKUP_TIMEOUT_S) -> Self:
        """Returns when every later change will be reported; raises TimeoutError after `timeout` seconds."""
        self._reader.start()
        if not self._reader.following.wait(timeout):
            self._reader.close()
            raise TimeoutError(self._reader.problem or f"{self._topic}: Kafka does not answer")
        return self

    def close(self) -> None:
        """Ends the reports."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
