"""Flags of a request in FastAPI."""

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from flagstream_client import MockFeatureFlagsClient
from flagstream_client.fastapi import CurrentFlags, FeatureFlagMiddleware, Subject, flags_lifespan
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware


class Recording(MockFeatureFlagsClient):
    """A mock that remembers whom flags were evaluated for."""

    def __init__(self, flags):
        super().__init__(flags)
        self.questions, self.closed = [], False

    def _question(self, user_id, context, who):
        question = super()._question(user_id, context, who)
        self.questions.append(question)
        return question

    async def close(self):
        self.closed = True


class Backend(AuthenticationBackend):
    async def authenticate(self, conn):
        name = conn.headers.get("authorization")
        return None if name is None else (AuthCredentials(["authenticated"]), User(name))


class User(SimpleUser):
    @property
    def identity(self):
        return self.username


def application(mock, **options):
    app = FastAPI(lifespan=flags_lifespan(lambda: mock))
    app.add_middleware(FeatureFlagMiddleware, flag_names=["new-ui", "dark-mode"], **options)
    app.add_middleware(AuthenticationMiddleware, backend=Backend())

    @app.get("/page")
    async def page(request: Request, flags: CurrentFlags):
        theme = await flags.evaluate_flag("theme", "light")
        assert await flags.track_conversion("checkout", "view", 1.0, metadata={"plan": "gold"}) is (flags.subject.user_id is not None)
        return {"flags": request.state.feature_flags, "theme": theme, "variant": await flags.get_variant("theme", "none"),
                "on": await flags.is_enabled("new-ui"), "many": await flags.batch_evaluate(["dark-mode"])}

    @app.websocket("/live")
    async def live(socket: WebSocket, flags: CurrentFlags):
        await socket.accept()
        await socket.send_json(socket.state.feature_flags | {"on": await flags.is_enabled("new-ui")})
        await socket.close()

    return app


@pytest.fixture
def mock():
    return Recording({"new-ui": True, "theme": "dark"})


def test_every_request_has_flags_for_its_user(mock):
    with TestClient(application(mock)) as service:
        answer = service.get("/page", headers={"authorization": "ann", "user-agent": "browser", "cookie": "session_id=s-1"})
        assert answer.json() == {"flags": {"new-ui": True, "dark-mode": False}, "theme": "dark", "variant": "dark", "on": True,
                                 "many": {"dark-mode": False}}
        for question in mock.questions:
            assert question.user_id == "ann"
        first = mock.questions[0]
        assert (first.session_id, first.context) == ("s-1", {"remoteAddress": "testclient", "userAgent": "browser"})
        [(conversion, user)] = mock.conversions
        assert (conversion.experiment, conversion.metric, conversion.metadata, user) == ("checkout", "view", {"plan": "gold"}, "ann")
        assert not mock.closed
    assert mock.closed


def test_a_request_without_a_user_is_anonymous(mock):
    with TestClient(application(mock)) as service:
        assert service.get("/page", headers={"x-user": "mallory"}).json()["theme"] == "dark"
    assert {question.user_id for question in mock.questions} == {None}


def test_another_subject_can_be_given(mock):
    async def subject(connection):
        return Subject(connection.headers["x-tenant"], context={"plan": "pro"})

    with TestClient(application(mock, subject=subject)) as service:
        service.get("/page", headers={"x-tenant": "t"})
    assert {question.user_id for question in mock.questions} == {"t"}
    assert mock.questions[0].context == {"plan": "pro"}


def test_web_sockets_have_flags(mock):
    with TestClient(application(mock)) as service, service.websocket_connect("/live") as socket:
        assert socket.receive_json() == {"new-ui": True, "dark-mode": False, "on": True}


def test_an_application_without_a_client_is_named(mock):
    app = application(mock)
    with pytest.raises(RuntimeError, match=r"app\.state\.flags"):
        TestClient(app).get("/page")
