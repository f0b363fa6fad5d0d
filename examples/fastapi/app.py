"""Feature flags in FastAPI: a client for the whole service, a dependency for a route, a middleware for all of them."""

import os

from fastapi import FastAPI, Request
from flagstream_client import FeatureFlagClient
from flagstream_client.fastapi import CurrentFlags, FeatureFlagMiddleware, Subject, flags_lifespan
from starlette.requests import HTTPConnection

URL = os.environ.get("FLAGSTREAM_URL", "http://localhost:8082")
ENVIRONMENT = os.environ.get("ENVIRONMENT", "production")
#: Evaluated once for each request, for whatever needs them on its way.
LAYOUT_FLAGS = ["on", "premium"]


def subject(connection: HTTPConnection) -> Subject:
    """Who asks. A real service takes the user from its session, not from a header that anybody can send.

    Without this function it is `request.state.user_id`, or the identity that Starlette's authentication found.
    """
    attributes = {"subscription_tier": connection.headers.get("x-tier"), "userAgent": connection.headers.get("user-agent")}
    context = {name: value for name, value in attributes.items() if value is not None}
    return Subject(connection.headers.get("x-user"), connection.cookies.get("session_id"), context)


app = FastAPI(lifespan=flags_lifespan(lambda: FeatureFlagClient(URL, ENVIRONMENT, follow_changes=True)))
app.add_middleware(FeatureFlagMiddleware, flag_names=LAYOUT_FLAGS, subject=subject)


@app.get("/api/users/{user_id}/dashboard")
async def dashboard(user_id: str, request: Request, flags: CurrentFlags):
    # The flags of the request are those of its user; the client evaluates for any other one.
    theme = await flags.client.evaluate_flag("theme", user_id, default_value="light", context=flags.subject.context)
    template = "new_dashboard" if request.state.feature_flags["premium"] else "old_dashboard"
    return {"template": template, "theme": theme}
