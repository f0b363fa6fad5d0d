"""Invalidation by the topic `feature-flag-updates`: `pip install flagstream-client[kafka]`."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from confluent_kafka import Consumer, TopicPartition

from .announcements import parse_change, parse_json
from .core import logger

POLL_S = 0.5
METADATA_S = 10.0
#: So that an answer kept before the start, or under way then, is compared with the last change before it.
LOOK_BACK_RECORDS = 100


class _Client(Protocol):
    _core: Any


class KafkaInvalidations:
    """Tells a client (made with `cache=True`) what the topic says, from a thread of its own.

    Each process needs every message, so it belongs to no consumer group and commits nothing. `kafka` are properties of
    librdkafka; `bootstrap.servers` is required. Messages are JSON, or what `deserialize` makes of them, such as
    confluent-kafka's `AvroDeserializer`; what it raises is logged, and the next message taken.
    """

    def __init__(
        self,
        client: _Client,
        kafka: Mapping[str, Any],
        topic: str = "feature-flag-updates",
        deserialize: Callable[[bytes], Any] | None = None,
    ) -> None:
        self._client = client
        self._topic = topic
        self._deserialize = deserialize or parse_json
        # A group must be named, although none is joined.
        own = {
            "group.id": f"flagstream-client-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "latest",
        }
        self._consumer = Consumer({**own, **kafka})
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flagstream-invalidations", daemon=True)

    def start(self) -> Self:
        """Returns when every later change will be heard of; KafkaException if the topic cannot be looked at."""
        metadata = self._consumer.list_topics(self._topic, METADATA_S).topics[self._topic]
        if metadata.error is not None:
            raise LookupError(f"{self._topic}: {metadata.error}")
        places = []
        for partition in metadata.partitions:
            first, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), METADATA_S)
            places.append(TopicPartition(self._topic, partition, max(first, end - LOOK_BACK_RECORDS)))
        self._consumer.assign(places)
        self._thread.start()
        return self

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._consumer.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            message = self._consumer.poll(POLL_S)
            if message is None:
                continue
            if message.error() is not None:
                logger.warning("%s: %s", self._topic, message.error())
            elif (value := message.value()) is not None:
                self._take(value)

    def _take(self, value: bytes) -> None:
        try:
            event = self._deserialize(value)
        except Exception as error:  # noqa: BLE001 Whatever a stranger's function raises.
            event = error
        change = parse_change(event)
        if change is not None:
            self._client._core.change(change)
        else:
            logger.warning("%s: not understood: %r: %r", self._topic, event, value[:200])
