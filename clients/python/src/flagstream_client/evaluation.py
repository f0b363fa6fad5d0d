"""Questions and answers as they cross the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any, Literal, TypeAlias

from .errors import InvalidAnswerError, InvalidRequestError

JsonValue: TypeAlias = Any
Context: TypeAlias = Mapping[str, JsonValue]
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

    def as_dict(self) -> dict[str, JsonValue]:
        """The answer as the service writes it."""
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """Who asks; with a flag it is a whole question."""

    environment: str | None
    user_id: UserId
    session_id: str | int | None
    context: Context | None

    def body(self) -> dict[str, JsonValue]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def key(self, flag: str, default: JsonValue, value_type: str | None) -> bytes:
        """The same for the same question, and of one length."""
        parts = [flag, default, value_type, *vars(self).values()]
        return sha256(encode(parts, sort_keys=True)).digest()


def encode(body: JsonValue, *, sort_keys: bool = False) -> bytes:
    try:
        return json.dumps(body, sort_keys=sort_keys, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"context or default: not JSON: {error}") from error


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


def named(evaluation: Evaluation, flag: str) -> Evaluation:
    return replace(evaluation, flag_name=flag)


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
    )


def _object(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise InvalidAnswerError("unexpected response: expected a JSON object", 200)
    return value
