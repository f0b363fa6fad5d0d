"""Messages in Avro with a schema registry: `pip install flagstream-client[avro]`."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Any
from urllib.parse import quote

import fastavro
import httpx2 as httpx

from ..announcements import parse_json
from ..errors import InvalidRequestError, UnavailableError
from ..evaluation import JsonValue
from .formats import MessageFormat

#: The first byte of a message in Confluent's wire format, before the schema's id in four bytes.
MAGIC = 0
HEADER = struct.Struct(">bI")
TIMEOUT_S = 10.0
_FILES = {"EvaluationRequest": "evaluation-request.avsc", "Conversion": "conversion.avsc"}


class AvroFormat(MessageFormat):
    """Avro with Confluent's wire format and a schema registry.

    Requests and conversions are written in Avro. Messages that do not begin with a zero byte are read as JSON. Schemas are
    registered and looked up once.
    """

    def __init__(self, registry_url: str, subjects: Callable[[str, str], str] = lambda topic, record: f"{topic}-value") -> None:
        """`subjects` gives the subject of a topic and a record's full name."""
        self._registry = _Registry(registry_url)
        self._subjects = subjects
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[int, Any] = {}

    def is_prepared(self, topic: str, record: str) -> bool:
        return (topic, record) in self._ids

    def prepare(self, topic: str, record: str) -> None:
        schema = _own(record)
        subject = self._subjects(topic, f"{schema['namespace']}.{schema['name']}")
        self._ids[topic, record] = self._registry.register(subject, schema)

    def encode(self, topic: str, record: str, members: Mapping[str, JsonValue]) -> bytes:
        if (topic, record) not in self._ids:
            self.prepare(topic, record)
        schema = _own(record)
        out = BytesIO()
        out.write(HEADER.pack(MAGIC, self._ids[topic, record]))
        try:
            message = {field["name"]: _written(field, members.get(field["name"])) for field in schema["fields"]}
            fastavro.schemaless_writer(out, _parsed(record), message)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InvalidRequestError(f"cannot be written in Avro: {error}") from error
        return out.getvalue()

    def decode(self, message: bytes) -> object:
        if len(message) < HEADER.size or message[0] != MAGIC:
            return parse_json(message)
        schema_id = HEADER.unpack_from(message)[1]
        if schema_id not in self._schemas:
            self._schemas[schema_id] = json.loads(self._registry.schema(schema_id))
        schema = self._schemas[schema_id]
        try:
            value = fastavro.schemaless_reader(BytesIO(message[HEADER.size :]), schema, None)
        except Exception:  # noqa: BLE001 fastavro raises whatever the bytes lead to.
            return None
        return _read(schema, value, {})


class _Registry:
    """The two calls of Confluent's schema registry that are needed."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def register(self, subject: str, schema: Mapping[str, Any]) -> int:
        path = f"/subjects/{quote(subject, safe='')}/versions"
        return int(self._call("POST", path, {"schema": json.dumps(schema)})["id"])

    def schema(self, schema_id: int) -> str:
        return str(self._call("GET", f"/schemas/ids/{schema_id}")["schema"])

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        headers = {"content-type": "application/vnd.schemaregistry.v1+json"} if body is not None else {}
        content = json.dumps(body) if body is not None else None
        try:
            answer = httpx.request(method, self._url + path, content=content, headers=headers, timeout=TIMEOUT_S)
            members = answer.json() if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError) as error:
            raise UnavailableError(f"schema registry {self._url}{path}: {error}") from error
        if not isinstance(members, dict) or not {"id", "schema"} & set(members):
            raise UnavailableError(f"schema registry {self._url}{path}: status {answer.status_code}: {answer.text[:200]}")
        return members


@cache
def _own(record: str) -> dict[str, Any]:
    """The schema of a record that the clients write."""
    schema: dict[str, Any] = json.loads((files(__package__) / "schemas" / _FILES[record]).read_text())
    return schema


@cache
def _parsed(record: str) -> Any:
    return fastavro.parse_schema(_own(record))


def _written(field: Mapping[str, Any], value: JsonValue) -> Any:
    """The value of a field. Fields with the attribute `json` hold JSON text, times are instants, and users are text."""
    kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
    types = [kind["type"] if isinstance(kind, dict) else kind for kind in kinds]
    if value is None:
        return None
    if field.get("json"):
        return {name: _text(member) for name, member in value.items()} if "map" in types else _text(value)
    if "long" in types and isinstance(value, str):
        return datetime.fromisoformat(value)
    return str(value) if types[-1] == "string" else value


def _text(value: JsonValue) -> str:
    # A number that JSON does not have would make the message unreadable.
    return json.dumps(value, allow_nan=False)


def _read(schema: Any, value: Any, named: dict[str, Any]) -> JsonValue:
    """A value as JSON has it, where fields with the attribute `json` have their value and not its text."""
    if isinstance(schema, dict) and schema.get("name"):
        named[schema["name"]] = schema
    if isinstance(schema, str):
        schema = named.get(schema, schema)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(schema, list):
        kinds = [kind for kind in schema if kind != "null"]
        return None if value is None else _read(kinds[0], value, named) if len(kinds) == 1 else value
    if isinstance(value, dict) and isinstance(schema, dict) and schema.get("type") == "record":
        members = {}
        for field in schema["fields"]:
            member = value.get(field["name"])
            is_text = field.get("json") and isinstance(member, str)
            members[field["name"]] = parse_json(str(member)) if is_text else _read(field["type"], member, named)
        return members
    if isinstance(value, dict) and isinstance(schema, dict):
        return {name: _read(schema["values"], member, named) for name, member in value.items()}
    if isinstance(value, list) and isinstance(schema, dict):
        return [_read(schema["items"], member, named) for member in value]
    return value
