"""What can go wrong, one class for each way to react."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class FlagstreamError(Exception):
    """Any failure of a call. `kind` is the same word in the clients of all languages."""

    kind = "error"
    #: May be different the next time.
    is_passing = False


class ConnectionFailedError(FlagstreamError):
    """Nobody answered, or the connection broke."""

    kind = "connection_failed"
    is_passing = True


class TimedOutError(FlagstreamError):
    """No answer in the time given to it."""

    kind = "timed_out"
    is_passing = True


class CircuitOpenError(FlagstreamError):
    """Not asked: the service failed too often a moment ago."""

    kind = "circuit_open"


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field of the request."""

    field: str
    message: str


class StatusError(FlagstreamError):
    """An answer with an error status; `detail` and `errors` are those of its problem+json (RFC 9457)."""

    def __init__(
        self,
        detail: str,
        status: int | None = None,
        errors: tuple[FieldError, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail if status is None else f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.errors = errors
        self.retry_after_s = retry_after_s


class InvalidRequestError(StatusError):
    """The request is wrong, `errors` says where. Without a status it was not even sent."""

    kind = "invalid_request"


class UnauthorizedError(StatusError):
    """No token, or not a known one."""

    kind = "unauthorized"


class ForbiddenError(StatusError):
    """The token lacks the scope or the environment."""

    kind = "forbidden"


class NotFoundError(StatusError):
    """The address is not that of a flagstream: an unknown flag is an answer, not an error."""

    kind = "not_found"


class RateLimitedError(StatusError):
    """More calls than are allowed; `retry_after_s` says when to come back."""

    kind = "rate_limited"
    is_passing = True


class UnavailableError(StatusError):
    """The service cannot answer now."""

    kind = "unavailable"
    is_passing = True


class InvalidAnswerError(StatusError):
    """Something answered that is not flagstream."""

    kind = "invalid_answer"


_BY_STATUS: dict[int, type[StatusError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    429: RateLimitedError,
}


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> StatusError:
    """The error that an answer other than 200 is."""
    if status in _BY_STATUS:
        kind = _BY_STATUS[status]
    elif 400 <= status < 500:
        kind = InvalidRequestError
    else:
        kind = UnavailableError if status >= 500 else InvalidAnswerError
    problem = _problem(body)
    detail = problem.get("detail") or problem.get("title") or "no explanation"
    errors = problem.get("errors")
    fields = tuple(
        FieldError(str(error.get("field", "")), str(error.get("message", "")))
        for error in (errors if isinstance(errors, list) else [])
        if isinstance(error, dict)
    )
    return kind(str(detail), status, fields, _seconds(headers.get("retry-after")))


def _problem(body: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _seconds(text: str | None) -> float | None:
    """flagstream writes seconds; a date, as proxies may write it, is not worth a clock of theirs."""
    try:
        seconds = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
