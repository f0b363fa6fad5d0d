"""Values that tests set for all clients of the process: `flagstream_client.testing.mock_flag`."""

from __future__ import annotations

from threading import Lock

from .evaluation import Evaluation, JsonValue

_values: dict[str, list[tuple[object, JsonValue]]] = {}
_lock = Lock()


def set_override(flag: str, value: JsonValue) -> object:
    """Sets a value; the result identifies it for `remove_override`."""
    token = object()
    with _lock:
        _values.setdefault(flag, []).append((token, value))
    return token


def remove_override(flag: str, token: object) -> None:
    """Removes a value; the one that was set before it counts again."""
    with _lock:
        left = [entry for entry in _values.get(flag, []) if entry[0] is not token]
        if left:
            _values[flag] = left
        else:
            _values.pop(flag, None)


def overridden(flag: str, environment: str | None) -> Evaluation | None:
    """The answer that a test has set for a flag, or None."""
    if not _values:
        return None
    entries = _values.get(flag)
    return None if not entries else given(flag, entries[-1][1], environment)


def given(flag: str, value: JsonValue, environment: str | None) -> Evaluation:
    """The answer of a mock for a flag that has this value. Text is the name of the variant as well."""
    is_on = value is not False
    variant = value if isinstance(value, str) else None
    return Evaluation(flag, value, is_on, variant, "TARGETING_MATCH" if is_on else "DEFAULT", environment=environment)
