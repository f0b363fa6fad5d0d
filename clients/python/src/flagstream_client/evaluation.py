"""Questions and answers as they cross the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal, TypeAlias
from uuid import uuid4

from .errors import InvalidAnswerError, InvalidRequestError

JsonValue: TypeAlias = Any
Context: TypeAlias = Mapping[str, JsonValue]
Metadata: TypeAlias = Mapping[str, JsonValue]
UserId: TypeAlias = str | int | None
ValueType: TypeAlias = Literal["boolean", "string", "integer", "float", "number", "object"]

ONE_PATH = "/api/v1/feature-flags/evaluate"
MANY_PATH = "/api/v1/feature-flags/evaluate/bulk"


@dataclass(frozen=True)
class Evaluation:
    """What the service says of one flag."""

    flag_name: str
    value: JsonValue
    #: Whether the flag is on for this context, whatever its type.
    enabled: bool
    variant: str | None
    #: OpenFeature's: TARGETING_MATCH, DEFAULT, DISABLED, ERROR.
    reason: str
    error_code: str | None = None
    error_message: str | None = None
    flag_version: int | None = None
    environment: str | None = None
    #: The newest change that the answer knows of.
    flags_version: int = 0
    #: Whether the flag is killed.
    killed: bool = False
    #: Whether the answer comes from a cache of the client. Two answers that differ only in this are equal.
    cached: bool = field(default=False, compare=False)

    def as_dict(self) -> dict[str, JsonValue]:
        """The answer as the service writes it, and `cached`."""
        return asdict(self)


@dataclass(frozen=True)
class Conversion:
    """What a metric of an experiment counts."""

    experiment: str
    metric: str
    value: float | None = None
    #: A conversion with the id of an earlier one is not counted again. Default: an id of its own.
    event_id: str = field(default_factory=lambda: str(uuid4()))
    #: Default: the time of the report.
    occurred_at: datetime | None = None
    #: Further properties, which can be dimensions of the results.
    metadata: Metadata | None = field(default=None, hash=False)

    def body(self, user_id: str | int) -> dict[str, JsonValue]:
        """The members of a report, without experiment and environment."""
        value = {} if self.value is None else {"value": self.value}
        metadata = {} if self.metadata is None else {"metadata": self.metadata}
        return {"user_id": user_id, "metric": self.metric, **value, "occurred_at": instant(self.occurred_at),
                "event_id": self.event_id, **metadata}


#: Members of a tracking event's details that are not metadata of its conversions.
EVENT_MEMBERS = frozenset({"value", "experiment", "eventId", "occurredAt"})


def event_metadata(metadata: Metadata | None) -> Metadata:
    """Checks metadata that a tracking event has among its own members."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidRequestError(f"metadata: expected a mapping, got {type(metadata).__name__}")
    if taken := EVENT_MEMBERS & metadata.keys():
        raise InvalidRequestError(f"metadata: not possible in a tracking event: {', '.join(sorted(taken))}")
    return metadata


def instant(time: datetime | None = None) -> str:
    """A time, or now, as the service reads it. A time without zone is a local one."""
    utc = datetime.now(UTC) if time is None else time.astimezone(UTC)
    return utc.isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Question:
    """Whom flags are evaluated for."""

    environment: str | None
    user_id: UserId
    session_id: str | int | None
    context: Context | None

    def body(self) -> dict[str, JsonValue]:
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def is_plain(self) -> bool:
        """Whether there is a user without session and context, so that answers can be shared in Redis."""
        has_user = self.user_id is not None and self.user_id != ""
        return has_user and self.session_id is None and not self.context and self.environment is not None

    def key(self, flag: str, default: JsonValue, value_type: str | None) -> bytes:
        """The same for the same question, and of one length."""
        parts = [flag, default, value_type, self.environment, self.user_id, self.session_id, self.context or None]
        return sha256(encode(parts, sort_keys=True)).digest()


# Kept, because `json.dumps` makes one for each call that has options.
_ENCODER = json.JSONEncoder(allow_nan=False)
_SORTING_ENCODER = json.JSONEncoder(allow_nan=False, sort_keys=True)


def encode(body: JsonValue, *, sort_keys: bool = False) -> bytes:
    try:
        return (_SORTING_ENCODER if sort_keys else _ENCODER).encode(body).encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"context, default or metadata: not JSON: {error}") from error


def one(answer: JsonValue) -> Evaluation:
    """The answer for one flag."""
    members = _object(answer)
    return _evaluation(members.get("flag_name"), members, members)


def many(answer: JsonValue, flags: Sequence[str]) -> dict[str, Evaluation]:
    """The answers for these flags, in their order."""
    around = _object(answer)
    results = _object(around.get("results"))
    return {flag: _evaluation(flag, _object(results.get(flag)), around) for flag in flags}


def failed(flag: str, default: JsonValue, error: Exception) -> Evaluation:
    """The answer where there is none."""
    return Evaluation(flag, default, False, None, "ERROR", "GENERAL", str(error))


def boolean(evaluation: Evaluation) -> bool:
    """The value of an evaluation that asked for a boolean."""
    if not isinstance(evaluation.value, bool):
        raise InvalidAnswerError(f"{evaluation.flag_name}: the value is not a boolean", 200)
    return evaluation.value


def like(evaluation: Evaluation, default: JsonValue) -> JsonValue:
    """The value of an evaluation that asked for the type of a default: an object may be answered with a list, too."""
    # A boolean is an `int` too, so it comes first.
    for kind in (bool, (int, float), str, dict, list):
        if isinstance(default, kind):
            value = evaluation.value
            if not isinstance(value, kind) or isinstance(value, bool) != isinstance(default, bool):
                got = type(value).__name__
                message = f"the value is of type {got}, the default of type {type(default).__name__}"
                raise InvalidAnswerError(f"{evaluation.flag_name}: {message}", 200)
            break
    return evaluation.value


def cached(evaluation: Evaluation, flag: str) -> Evaluation:
    """The answer as it is returned from a cache."""
    return replace(evaluation, flag_name=flag, cached=True)


def _evaluation(flag: JsonValue, result: dict[str, JsonValue], around: dict[str, JsonValue]) -> Evaluation:
    if "value" not in result or not isinstance(result.get("enabled"), bool) or not isinstance(result.get("reason"), str):
        raise InvalidAnswerError("unexpected response: value, enabled or reason is missing", 200)
    version = around.get("flags_version")
    return Evaluation(
        flag_name=str(flag),
        value=result["value"],
        enabled=result["enabled"],
        variant=result.get("variant"),
        reason=result["reason"],
        error_code=result.get("error_code"),
        error_message=result.get("error_message"),
        flag_version=result.get("flag_version"),
        environment=around.get("environment"),
        flags_version=version if isinstance(version, int) else 0,
        killed=result.get("killed") is True,
    )


def _object(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise InvalidAnswerError("unexpected response: expected a JSON object", 200)
    return value
