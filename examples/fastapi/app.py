"""Feature flags in FastAPI: a client for the whole service, a dependency for a route, a middleware for all of them."""

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from flagstream_client import AsyncFlags, FeatureFlagClient

#: Evaluated once for each request, for whatever needs them on its way.
LAYOUT_FLAGS = ["on", "premium"]


@dataclass
class EvaluationContext:
    user_id: str | None
    session_id: str | None
    attributes: dict[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def lifespan(app: FastAPI):
    url = os.environ.get("FLAGSTREAM_URL", "http://localhost:8082")
    async with FeatureFlagClient(url, os.environ.get("ENVIRONMENT", "production"), follow_changes=True) as client:
        app.state.flags = client
        yield


app = FastAPI(lifespan=lifespan)


def get_flags(request: Request) -> AsyncFlags:
    return request.app.state.flags


def get_evaluation_context(request: Request) -> EvaluationContext:
    """Who asks. A real service takes the user from its session, not from a header that anybody can send."""
    attributes = {"subscription_tier": request.headers.get("x-tier"), "user_agent": request.headers.get("user-agent")}
    return EvaluationContext(
        user_id=request.headers.get("x-user"),
        session_id=request.cookies.get("session_id"),
        attributes={name: value for name, value in attributes.items() if value is not None},
    )


@app.middleware("http")
async def feature_flags(request: Request, call_next):
    """Puts flags where every handler finds them: `request.state.feature_flags`."""
    context = get_evaluation_context(request)
    request.state.feature_flags = await get_flags(request).batch_evaluate(
        LAYOUT_FLAGS, context.user_id, context=context.attributes
    )
    response = await call_next(request)
    response.headers["vary"] = "x-user, x-tier"
    return response


@app.get("/api/users/{user_id}/dashboard")
async def dashboard(
    user_id: str,
    request: Request,
    flags: Annotated[AsyncFlags, Depends(get_flags)],
    context: Annotated[EvaluationContext, Depends(get_evaluation_context)],
):
    theme = await flags.evaluate_flag("theme", user_id, default_value="light", context=context.attributes)
    template = "new_dashboard" if request.state.feature_flags["premium"] else "old_dashboard"
    return {"template": template, "theme": theme}
