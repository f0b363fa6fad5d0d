"""Properties of librdkafka's clients, and its errors as those of the package."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from ..errors import (
    ConnectionFailedError,
    FlagstreamError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    TimedOutError,
    UnauthorizedError,
)

#: librdkafka's own log.
logger = logging.getLogger("flagstream_client.kafka")


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """librdkafka logs each attempt to reconnect, of which there are many in an outage; the clients report it once."""
    return not record.getMessage().startswith("FAIL") or logger.isEnabledFor(logging.DEBUG)


logger.addFilter(_is_worth_a_line)

#: How long a message without a reply may wait for Kafka.
DELIVERY_TIMEOUT_MS = 120_000
_RECONNECT = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 1_000}

_KINDS: dict[int, type[FlagstreamError]] = {
    KafkaError._MSG_TIMED_OUT: TimedOutError,
    KafkaError._TIMED_OUT: TimedOutError,
    KafkaError.MSG_SIZE_TOO_LARGE: InvalidRequestError,
    KafkaError._AUTHENTICATION: UnauthorizedError,
    KafkaError.SASL_AUTHENTICATION_FAILED: UnauthorizedError,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: ForbiddenError,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: ForbiddenError,
    KafkaError._UNKNOWN_TOPIC: NotFoundError,
    KafkaError.UNKNOWN_TOPIC_OR_PART: NotFoundError,
    KafkaError.TOPIC_EXCEPTION: NotFoundError,
}


#: Beginnings of properties that only one kind of client knows; the other one warns of them.
_OF_CONSUMERS = ("fetch.", "isolation.", "auto.offset.", "queued.", "check.crcs", "max.partition.fetch.", "max.poll.")
_OF_PRODUCERS = (
    "linger.", "batch.", "queue.buffering.", "message.timeout.", "message.send.", "delivery.", "acks", "request.required.",
    "request.timeout.", "compression.", "enable.idempotence", "partitioner", "sticky.", "retries", "retry.",
)  # fmt: skip


def consumer_properties(given: Mapping[str, Any]) -> dict[str, Any]:
    """Properties of a consumer that belongs to no group and commits nothing."""
    own = {
        # Replies and changes are written in transactions: what was aborted must not be read.
        "isolation.level": "read_committed",
        "auto.offset.reset": "latest",
        "allow.auto.create.topics": False,
        # Brokers answer as soon as there is a record, but the embedded one of `flagstream dev` at the end of this time.
        "fetch.wait.max.ms": 100,
        **_RECONNECT,
    }
    # A group must be named, although none is joined.
    known = {name: value for name, value in given.items() if not name.startswith(_OF_PRODUCERS)}
    return {"logger": logger, **own, **known, "group.id": f"flagstream-client-{uuid.uuid4()}", "enable.auto.commit": False}


def producer_properties(given: Mapping[str, Any]) -> dict[str, Any]:
    """Properties of a producer that sends each message at once."""
    known = {name: value for name, value in given.items() if not name.startswith(_OF_CONSUMERS)}
    return {"logger": logger, "linger.ms": 0, "message.timeout.ms": DELIVERY_TIMEOUT_MS, **_RECONNECT, **known}


def is_outage(error: KafkaError) -> bool:
    """Whether no broker is reachable. Single connections may fail in normal operation, and librdkafka opens new ones."""
    return error.code() == KafkaError._ALL_BROKERS_DOWN or error.fatal()


def error_of(topic: str, error: KafkaError | KafkaException) -> FlagstreamError:
    """The error of the package for one of librdkafka."""
    cause: KafkaError = error.args[0] if isinstance(error, KafkaException) else error
    kind = _KINDS.get(cause.code(), ConnectionFailedError)
    return kind(f"topic {topic}: {cause.str()}")
