"""A server that gives prepared answers, one by one, and remembers what it was asked."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ScriptedServer:
    def __init__(self, answer, answers, streams=()):
        self.answer, self.answers, self.requests = answer, list(answers), []
        #: What connections to the stream of changes get before they end, and what the last one said where it was.
        self.streams, self.resumed_after = list(streams), []
        self.ended = threading.Event()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                scripted.serve(self)

            def do_GET(self):
                scripted.stream(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def serve(self, call):
        body = json.loads(call.rfile.read(int(call.headers["content-length"])))
        headers = {name.lower(): value for name, value in call.headers.items()}
        self.requests.append({"method": call.command, "path": call.path, "headers": headers, "body": body})
        answer = self.answers.pop(0) if self.answers else {"status": 418}
        if answer.get("hang"):
            self.ended.wait()
        if answer.get("hang") or answer.get("drop"):
            call.close_connection = True
            return
        status = answer.get("status", 200)
        if status == 200:
            text = answer.get("text") or json.dumps({**self.answer, **answer.get("body", {})})
        else:
            text = json.dumps({"status": status, **answer.get("problem", {})})
        call.send_response(status)
        for name, value in answer.get("headers", {}).items():
            call.send_header(name, value)
        call.send_header("content-length", str(len(text.encode())))
        call.end_headers()
        call.wfile.write(text.encode())

    def stream(self, call):
        call.close_connection = True
        if not self.streams:
            call.send_error(503)
            return
        self.resumed_after.append(call.headers.get("last-event-id"))
        call.send_response(200)
        call.send_header("content-type", "text/event-stream")
        call.end_headers()
        call.wfile.write(self.streams.pop(0))
        if not self.streams:
            self.ended.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.http.shutdown()
        self.http.server_close()


def check_requests(expected, seen):
    assert len(seen) == len(expected), seen
    for wanted, request in zip(expected, seen, strict=True):
        assert request["method"] == wanted.get("method", "POST")
        assert request["path"] == wanted.get("path", request["path"])
        for name, value in wanted.get("headers", {}).items():
            assert request["headers"].get(name) == value, request
        for name in wanted.get("without", []):
            assert name not in request["headers"], request
        for name, value in wanted.get("body", {}).items():
            assert request["body"].get(name) == value, request
        assert request["body"] == wanted.get("whole_body", request["body"])
