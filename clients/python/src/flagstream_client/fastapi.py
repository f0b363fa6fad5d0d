"""Flags in FastAPI and Starlette: `pip install flagstream-client[fastapi]`.

```text
 request ─► FeatureFlagMiddleware ─► subject (user, session, address, user agent) ─► `request.state.feature_flags`
    └─────► Depends(request_flags) ─► RequestFlags: the calls of the client for the subject of the request
```
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, overload

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from .calls import AsyncFlags, T, V
from .evaluation import JsonValue, Metadata

__all__ = [
    "CurrentFlags",
    "FeatureFlagMiddleware",
    "RequestFlags",
    "Subject",
    "flags_lifespan",
    "get_flags",
    "request_flags",
    "request_subject",
]

#: The cookie of the session.
SESSION_COOKIE = "session_id"


@dataclass(frozen=True)
class Subject:
    """Whom the flags of a request are evaluated for."""

    user_id: str | None = None
    session_id: str | None = None
    context: Mapping[str, JsonValue] = field(default_factory=dict)


SubjectResolver = Callable[[HTTPConnection], Subject | Awaitable[Subject]]


def request_subject(request: HTTPConnection) -> Subject:
    """The user of a request, its session, and the attributes `remoteAddress`, `userAgent` and `group_id`.

    The user is `request.state.user_id`, else the identity that Starlette's authentication found. The session is that of
    `request.state.session_id`, else the cookie `session_id`. None of them is taken from a header that any caller can send.
    """
    user = getattr(request.state, "user_id", None)
    if user is None:
        authenticated = request.scope.get("user")
        user = authenticated.identity if authenticated is not None and authenticated.is_authenticated else None
    session = getattr(request.state, "session_id", None) or request.cookies.get(SESSION_COOKIE)
    known = {
        "remoteAddress": request.client.host if request.client is not None else None,
        "userAgent": request.headers.get("user-agent"),
        "group_id": getattr(request.state, "group_id", None),
    }
    context = {name: value for name, value in known.items() if value is not None}
    return Subject(None if user is None else str(user), session, context)


class RequestFlags:
    """The calls of a client, for the subject of a request."""

    def __init__(self, client: AsyncFlags, subject: Subject) -> None:
        self.client = client
        self.subject = subject

    async def is_enabled(self, flag_name: str, default: bool = False) -> bool:
        """Evaluates a boolean flag; see `AsyncFlags.is_enabled`."""
        return await self.client.is_enabled(flag_name, default=default, **self._who())

    @overload
    async def evaluate_flag(self, flag_name: str, default_value: V) -> V: ...
    @overload
    async def evaluate_flag(self, flag_name: str, default_value: T) -> T: ...
    async def evaluate_flag(self, flag_name: str, default_value: Any) -> Any:
        """Evaluates a flag, and returns a value of the type of `default_value`; see `AsyncFlags.evaluate_flag`."""
        return await self.client.evaluate_flag(flag_name, default_value=default_value, **self._who())

    async def batch_evaluate(self, flag_names: Sequence[str], default: bool = False) -> dict[str, bool]:
        """Evaluates many boolean flags in one request; see `AsyncFlags.batch_evaluate`."""
        return await self.client.batch_evaluate(flag_names, default=default, **self._who())

    async def get_variant(self, flag_name: str, default_variant: str) -> str:
        """Returns the name of a variant; see `AsyncFlags.get_variant`."""
        return await self.client.get_variant(flag_name, default_variant=default_variant, **self._who())

    async def track_conversion(
        self,
        experiment: str,
        metric: str,
        value: float | None = None,
        *,
        event_id: str | None = None,
        occurred_at: datetime | None = None,
        metadata: Metadata | None = None,
    ) -> bool:
        """Reports a conversion of the user; see `AsyncFlags.track_conversion`."""
        user = self.subject.user_id
        return await self.client.track_conversion(
            experiment, user, metric, value, event_id=event_id, occurred_at=occurred_at, metadata=metadata
        )

    def _who(self) -> dict[str, Any]:
        subject = self.subject
        session = {"session_id": subject.session_id} if subject.session_id is not None else {}
        return {"user_id": subject.user_id, "context": subject.context or None, **session}


def get_flags(request: HTTPConnection) -> AsyncFlags:
    """Dependency: the client of the application, `app.state.flags`."""
    return _client(request.app)


async def request_flags(request: HTTPConnection) -> RequestFlags:
    """Dependency: flags for the subject of the request.

    The subject is that of the middleware, if there is one, else that of `request_subject`. For another one, use
    `app.dependency_overrides`, or the option `subject` of the middleware.
    """
    subject = getattr(request.state, "flag_subject", None)
    return RequestFlags(get_flags(request), subject if isinstance(subject, Subject) else request_subject(request))


#: Type of a parameter that receives the flags of the request: `async def page(flags: CurrentFlags)`.
CurrentFlags = Annotated[RequestFlags, Depends(request_flags)]


class FeatureFlagMiddleware:
    """Evaluates boolean flags once for each request, in one call, into the dictionary `request.state.feature_flags`.

    >>> app.add_middleware(FeatureFlagMiddleware, flag_names=["new-ui", "dark-mode"])

    A middleware that authenticates users must be added after this one, so that it runs before.
    """

    def __init__(
        self,
        app: ASGIApp,
        flag_names: Sequence[str] = (),
        client: AsyncFlags | None = None,
        subject: SubjectResolver = request_subject,
    ) -> None:
        """Without `client` it is that of the application, `app.state.flags`."""
        self._app = app
        self._flag_names = list(flag_names)
        self._client = client
        self._subject = subject

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request. Web sockets have flags as well."""
        if scope["type"] in ("http", "websocket"):
            found = self._subject(HTTPConnection(scope))
            subject = await found if inspect.isawaitable(found) else found
            client = self._client or _client(scope["app"])
            state = scope.setdefault("state", {})
            state["flag_subject"] = subject
            if self._flag_names:
                state["feature_flags"] = await RequestFlags(client, subject).batch_evaluate(self._flag_names)
            else:
                state["feature_flags"] = {}
        await self._app(scope, receive, send)


def flags_lifespan(create: Callable[[], AsyncFlags]) -> Callable[[Any], Any]:
    """A lifespan that creates the client `app.state.flags` at the start, and closes it at the end.

    >>> app = FastAPI(lifespan=flags_lifespan(lambda: FeatureFlagClient("http://flagstream:8082")))
    """

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with create() as client:
            app.state.flags = client
            yield

    return lifespan


def _client(app: Any) -> AsyncFlags:
    client = getattr(app.state, "flags", None)
    if client is None:
        raise RuntimeError("app.state.flags is not set: use flags_lifespan, or set it to a client")
    return client  # type: ignore[no-any-return]
