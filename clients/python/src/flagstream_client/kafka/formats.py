"""Formats of messages: JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from ..announcements import parse_json
from ..evaluation import JsonValue, encode


class MessageFormat(ABC):
    """How messages are written and read. Use `JSON`, or `AvroFormat` of `flagstream_client.kafka.avro`."""

    def is_prepared(self, topic: str, record: str) -> bool:
        """Whether `encode` does not block."""
        return True

    def prepare(self, topic: str, record: str) -> None:
        """Looks up what `encode` needs. May block."""

    @abstractmethod
    def encode(self, topic: str, record: str, members: Mapping[str, JsonValue]) -> bytes:
        """Writes a message of a record type for a topic."""

    @abstractmethod
    def decode(self, message: bytes) -> object:
        """Reads a message; None if it is in another format. May block while a schema is looked up."""


class _JsonFormat(MessageFormat):
    def encode(self, topic: str, record: str, members: Mapping[str, JsonValue]) -> bytes:
        return encode(members)

    def decode(self, message: bytes) -> object:
        return parse_json(message)


#: Messages in JSON.
JSON: MessageFormat = _JsonFormat()
