"""Messages in Avro, with a registry in this process."""

import io
import json
import struct
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fastavro
import pytest
from fake_kafka import FETCH_WAIT_MS, LIMIT_S, REPLIES, REQUESTS, FakeKafka, FakeService
from flagstream_client import InvalidRequestError, UnavailableError
from flagstream_client.kafka.avro import AvroFormat

SCHEMAS = Path(__file__).parents[3] / "schemas"
OWN = Path(__file__).parents[1] / "src/flagstream_client/kafka/schemas"


class Registry:
    """Confluent's two calls."""

    def __init__(self):
        self.schemas, self.calls = {}, []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                registry.calls.append(self.path)
                self.answer(200, {"id": registry.register(body["schema"])})

            def do_GET(self):
                registry.calls.append(self.path)
                schema = registry.schemas.get(int(self.path.rpartition("/")[2]))
                self.answer(200 if schema else 404, {"schema": schema} if schema else {"error_code": 40403})

            def answer(self, status, body):
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def register(self, schema):
        known = [number for number, text in self.schemas.items() if text == schema]
        number = known[0] if known else len(self.schemas) + 1
        self.schemas[number] = schema
        return number

    def write(self, file, message):
        """A message of the service in Confluent's wire format."""
        text = (SCHEMAS / file).read_text()
        out = io.BytesIO(struct.pack(">bI", 0, self.register(text)))
        out.seek(0, io.SEEK_END)
        fastavro.schemaless_writer(out, json.loads(text), message)
        return out.getvalue()


@pytest.fixture
def registry():
    registry = Registry()
    yield registry
    registry.http.shutdown()
    registry.http.server_close()


def result(value):
    return {"value": json.dumps(value), "enabled": True, "variant": None, "reason": "TARGETING_MATCH", "error_code": None,
            "error_message": None, "flag_version": 9}


def reply(body, value):
    flags = body["flag_names"] or [body["flag_name"]]
    return {"request_id": body["request_id"], "environment": "production", "results": {flag: result(value) for flag in flags},
            "flags_version": 10, "evaluated_at": datetime.now(UTC)}


@pytest.mark.parametrize("name", ["evaluation-request.avsc", "conversion.avsc"])
def test_the_schemas_are_those_of_the_project(name):
    assert (OWN / name).read_text() == (SCHEMAS / name).read_text()


def test_a_request_and_its_reply(registry, make_kafka):
    kafka = FakeKafka()
    avro = AvroFormat(registry.url + "/")
    service = FakeService(kafka, read=avro.decode)
    service.answer = lambda body: registry.write("reply.avsc", reply(body, {"threshold": 0.8}))
    client = make_kafka(kafka.servers, "production", reply_topic=REPLIES, requests_topic=REQUESTS, format=avro, timeout=LIMIT_S,
                        properties={"fetch.wait.max.ms": FETCH_WAIT_MS})
    assert client.evaluate_flag("f", 7, {"a": 1}, {"plan": "pro"}) == {"threshold": 0.8}
    evaluations = client.evaluate_many(["f", "g"], "u", default_values={"f": "x"}, value_types={"g": "string"})
    assert [(one.value, one.flag_version) for one in evaluations.values()] == [({"threshold": 0.8}, 9)] * 2
    one, many = (body for _, _, body in service.requests)
    assert (one["flag_name"], one["user_id"], one["context"], one["default_value"]) == ("f", "7", {"plan": "pro"}, {"a": 1})
    assert many["flag_names"] == ["f", "g"] and many["default_values"] == {"f": '"x"'} and many["value_types"] == {"g": "string"}
    assert datetime.fromisoformat(one["requested_at"]).tzinfo is not None
    assert registry.calls == ["/subjects/requests-value/versions", "/schemas/ids/1", "/schemas/ids/2"], "each is looked up once"
    service.close()


def test_a_conversion_and_a_change(registry):
    avro = AvroFormat(registry.url, lambda topic, record: record)
    members = {"experiment": "e", "user_id": 7, "metric": "m", "value": 2, "occurred_at": "2026-01-15T11:30:00.000000Z", "event_id": "x"}
    written = avro.encode("conversions", "Conversion", members)
    assert avro.decode(written) == {
        **members, "environment": None, "user_id": "7", "value": 2.0, "occurred_at": "2026-01-15T11:30:00+00:00", "metadata": None,
    }
    metadata = {"plan": "gold", "items": [1, None]}
    assert avro.decode(avro.encode("conversions", "Conversion", {**members, "metadata": metadata}))["metadata"] == metadata
    assert registry.calls[0] == "/subjects/flagstream.Conversion/versions"
    now = datetime.now(UTC)
    change = {"event_type": "FEATURE_FLAG_UPDATED", "flag_name": "f", "environment": "e", "version": 7, "changed_at": now,
              "published_at": now, "actor": "unleash"}
    assert avro.decode(registry.write("change-event.avsc", change))["version"] == 7


def test_what_is_not_avro_is_read_as_json_or_refused(registry):
    avro = AvroFormat(registry.url)
    assert avro.decode(b'{"a":1}') == {"a": 1}
    assert avro.decode(registry.write("reply.avsc", reply({"flag_names": ["f"], "request_id": "r"}, 1))[:-9]) is None
    with pytest.raises(UnavailableError, match="/schemas/ids/99: status 404"):
        avro.decode(struct.pack(">bI", 0, 99) + b"x")
    with pytest.raises(InvalidRequestError, match="cannot be written in Avro"):
        avro.encode("requests", "EvaluationRequest", {"context": {"a": object()}})
    with pytest.raises(InvalidRequestError, match="cannot be written in Avro: .*not JSON"):
        avro.encode("conversions", "Conversion", {"metadata": {"a": float("nan")}})
    with pytest.raises(UnavailableError, match="schema registry http://127.0.0.1:1/subjects/t-value/versions"):
        AvroFormat("http://127.0.0.1:1").encode("t", "Conversion", {})
