"""Aids for tests of services that use the clients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .evaluation import JsonValue
from .mock import MockFeatureFlagsClient, MockSyncFeatureFlagsClient, Tracked
from .overrides import remove_override, set_override

__all__ = ["MockFeatureFlagsClient", "MockSyncFeatureFlagsClient", "Tracked", "mock_flag"]


@contextlib.contextmanager
def mock_flag(flag_name: str, value: JsonValue) -> Iterator[None]:
    """Sets a flag for all clients and mocks of this process, for the length of a `with` block or of a decorated function.

    The flag has this value for all users and environments, and in all threads; text is its variant as well. The service is
    not asked about it. Blocks can be nested.
    """
    token = set_override(flag_name, value)
    try:
        yield
    finally:
        remove_override(flag_name, token)
