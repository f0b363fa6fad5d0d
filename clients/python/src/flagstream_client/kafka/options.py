"""The options of the clients over Kafka."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ..options import CommonOptions, Settings
from .formats import JSON, MessageFormat

UPDATES_TOPIC = "feature-flag-updates"


class KafkaOptions(CommonOptions, total=False):
    """The optional keyword arguments of both clients over Kafka."""

    properties: Mapping[str, Any]
    reply_topic: str
    requests_topic: str
    conversions_topic: str
    updates_topic: str
    format: MessageFormat
    max_pending: int


@dataclass(frozen=True, kw_only=True)
class KafkaSettings(Settings):
    """What the clients over Kafka have."""

    properties: Mapping[str, Any] = field(repr=False)
    reply_topic: str | None = None
    requests_topic: str = "feature-flag-evaluation-requests"
    conversions_topic: str = "feature-flag-conversions"
    updates_topic: str = UPDATES_TOPIC
    format: MessageFormat = JSON
    max_pending: int = 10_000

    @classmethod
    def of(cls, *, bootstrap_servers: str | None = None, **options: Any) -> Self:
        """Checks the options; the variable KAFKA_BOOTSTRAP_SERVERS is the default of the servers."""
        properties = dict(options.pop("properties", {}))
        servers = bootstrap_servers or properties.get("bootstrap.servers") or os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        if not servers:
            raise ValueError("bootstrap_servers: expected HOST:PORT, or the variable KAFKA_BOOTSTRAP_SERVERS")
        return super().of(**options, properties={**properties, "bootstrap.servers": servers})

    @property
    def positive(self) -> tuple[str, ...]:
        """The options that must not be 0."""
        return (*super().positive, "max_pending")
