"""One instance of the service with topics and a database of its own."""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

PARTITIONS = 4
READY_SECONDS = 60
STOP_SECONDS = 20
TOKEN = "an-admin-token-of-this-run"


class Service:
    """Starts the binary; `with` stops it and removes what it left behind."""

    def __init__(self, binary, kafka, database_url):
        self.folder = tempfile.TemporaryDirectory(prefix="flagstream-abuse-")
        run = f"abuse-{secrets.token_hex(4)}"
        port = free_port()
        names = (
            "requests", "changes", "definitions", "updates", "dead_letters", "conversions", "overrides", "audit_checkpoints",
            "instances", "client_metrics", "exposures",
        )
        self.kafka = kafka
        self.replies = f"{run}-replies"
        self.requests, self.events = f"{run}-requests", f"{run}-events"
        self.url = f"http://127.0.0.1:{port}"
        self.database_url, self.database = database_url, run.replace("-", "_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FLAGSTREAM_", "UNLEASH_"))},
            **{f"FLAGSTREAM_TOPICS__{name.upper()}": f"{run}-{name.replace('_', '-')}" for name in names},
            "FEATURE_FLAG_KAFKA_TOPIC": self.events,
            "FLAGSTREAM_TOPICS__PARTITIONS": str(PARTITIONS),
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "FLAGSTREAM_KAFKA__GROUP_ID": run,
            "FLAGSTREAM_REPLY__ALLOWED_PREFIXES": self.replies,
            "FLAGSTREAM_HTTP__LISTEN": f"127.0.0.1:{port}",
            "FLAGSTREAM_STATE_DIR": str(Path(self.folder.name) / "state"),
            "FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN": TOKEN,
            "FLAGSTREAM_INSTANCE": run,
            "UNLEASH_ENVIRONMENT": "production",
        }
        self.binary = str(Path(binary).resolve())
        self.log = open(Path(self.folder.name) / "log", "w+", encoding="utf-8", errors="replace")
        self.process = None

    def __enter__(self):
        import psycopg

        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{self.database}"')
        self.environment["DATABASE_URL"] = f"{self.database_url.rsplit('/', 1)[0]}/{self.database}"
        self._command("topics", "apply")
        self._command("migrate")
        self.process = subprocess.Popen([self.binary, "run"], env=self.environment, cwd=self.folder.name,
                                        stdout=self.log, stderr=subprocess.STDOUT)
        self._local_flags()
        return self

    def __exit__(self, *_):
        import psycopg
        from confluent_kafka.admin import AdminClient

        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        self.process.kill()
        admin = AdminClient({"bootstrap.servers": self.kafka})
        own = [name for name in admin.list_topics(timeout=10).topics if name.startswith(self.requests.rsplit("-", 1)[0])]
        for future in admin.delete_topics(own).values():
            with contextlib.suppress(Exception):
                future.result(10)
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{self.database}" WITH (FORCE)')
        self.log.close()
        self.folder.cleanup()

    def _command(self, *arguments):
        done = subprocess.run([self.binary, *arguments], env=self.environment, cwd=self.folder.name, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"flagstream {' '.join(arguments)}: {done.stdout}{done.stderr}")

    def _local_flags(self):
        """Flags of its own, by the API: no Unleash is needed."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not get ready:\n{self.log_text()}")
            if self.call("GET", "/health/ready")[0] == 200:
                break
            time.sleep(0.1)
        for name in ("on", "half"):
            flag = {"name": name, "environment": "production", "is_enabled": True}
            flag |= {"rollout_percentage": "50"} if name == "half" else {}
            status, body = self.call("POST", "/api/v1/feature-flags", flag, token=TOKEN)
            if status not in (201, 202):
                raise RuntimeError(f"flag {name}: {status} {body[:300]}")

    def call(self, method, path, body=None, token=None, timeout=30):
        """Status and text; status 0 if there was no answer."""
        request = urllib.request.Request(self.url + path, method=method)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, data, timeout=timeout) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except (OSError, TimeoutError) as error:
            return 0, str(error)

    def memory_mib(self):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) / 1024

    def log_text(self, tail=4000):
        self.log.flush()
        return Path(self.log.name).read_text(errors="replace")[-tail:]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
