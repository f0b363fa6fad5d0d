"""Feature flags, evaluated by flagstream.

>>> async with FeatureFlagClient("http://flagstream:8082", "production") as flags:
...     if await flags.is_enabled("new-ui-enabled", user_id="user-123"):
...         ...
"""

from .announcements import FlagChange
from .blocking import SyncFeatureFlagClient
from .blocking_calls import Flags
from .calls import AsyncFlags
from .client import FeatureFlagClient, FeatureFlagsClient
from .errors import (
    CircuitOpenError,
    ConnectionFailedError,
    FieldError,
    FlagstreamError,
    ForbiddenError,
    InvalidAnswerError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    StatusError,
    TimedOutError,
    UnauthorizedError,
    UnavailableError,
)
from .evaluation import Conversion, Evaluation, JsonValue, ValueType
from .mock import MockFeatureFlagsClient, MockSyncFeatureFlagsClient
from .options import Options
from .testing import mock_flag

__all__ = [
    "AsyncFlags",
    "CircuitOpenError",
    "ConnectionFailedError",
    "Conversion",
    "Evaluation",
    "FeatureFlagClient",
    "FeatureFlagsClient",
    "FieldError",
    "FlagChange",
    "Flags",
    "FlagstreamError",
    "ForbiddenError",
    "InvalidAnswerError",
    "InvalidRequestError",
    "JsonValue",
    "MockFeatureFlagsClient",
    "MockSyncFeatureFlagsClient",
    "NotFoundError",
    "Options",
    "RateLimitedError",
    "StatusError",
    "SyncFeatureFlagClient",
    "TimedOutError",
    "UnauthorizedError",
    "UnavailableError",
    "ValueType",
    "mock_flag",
]
