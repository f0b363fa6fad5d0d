"""Produces messages, without waiting for Kafka."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ..core import logger
from ..errors import ConnectionFailedError, FlagstreamError, InvalidRequestError, RateLimitedError
from .properties import error_of, is_outage, producer_properties

POLL_S = 0.1
#: How long `close` waits for messages that Kafka does not have yet.
CLOSE_TIMEOUT_S = 5.0

Delivered = Callable[[FlagstreamError | None], None]


class RequestProducer:
    """A producer, with a thread that receives the reports about its messages."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._producer = Producer({"error_cb": self._failed, **producer_properties(properties)})
        self._closing = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._poll, name="flagstream-requests", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """Why Kafka is unreachable, as far as it is known."""
        return self._problem

    def send(
        self,
        topic: str,
        key: str | None,
        value: bytes,
        headers: Sequence[tuple[str, bytes]],
        delivered: Delivered | None = None,
    ) -> None:
        """Puts a message into the producer's queue; raises a `FlagstreamError` if that is not possible.

        `delivered` is called on a thread of the client: with None when Kafka has the message, or with an error.
        """
        if self._closing.is_set():
            raise ConnectionFailedError("the client is closed")

        def report(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self._problem = None
            if delivered is not None:
                delivered(None if error is None else error_of(topic, error))

        try:
            self._producer.produce(topic, value, key, headers=list(headers), on_delivery=report)
        except BufferError:
            reason = f": {self._problem}" if self._problem else ""
            raise RateLimitedError(f"the producer's queue is full{reason}") from None
        except KafkaException as error:
            raise error_of(topic, error) from error
        except TypeError as error:
            raise InvalidRequestError(f"topic {topic}: {error}") from error

    def flush(self, timeout_s: float) -> int:
        """Waits until Kafka has all messages; returns how many it does not have after this time."""
        return int(self._producer.flush(timeout_s))

    def close(self) -> None:
        """Sends what is in the queue, and ends."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join()
        if left := self.flush(CLOSE_TIMEOUT_S):
            logger.warning("%d messages were not sent: Kafka does not have them within %g s", left, CLOSE_TIMEOUT_S)
            self._producer.purge()
            self._producer.poll(0)

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(POLL_S)

    def _failed(self, error: KafkaError) -> None:
        if is_outage(error):
            if self._problem is None:
                logger.warning("Kafka is unreachable: %s", error.str())
            self._problem = error.str()
