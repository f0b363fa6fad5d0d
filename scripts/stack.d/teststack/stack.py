"""One stack: its folder, its ports, and the environment it gives to tests."""

import contextlib
import json
import os
import random
import shutil
import socket
from pathlib import Path

from . import install, services
from .compose import Compose, engine_answers
from .native import Native
from .services import PASSWORD, REGISTRY_PATH, ServiceError, Unleash

BACKENDS = {"native": Native, "compose": Compose}


class Stack:
    def __init__(self, folder):
        self.dir = Path(folder).resolve()
        self.state_file = self.dir / "stack.json"

    def up(self):
        """Starts what does not run yet. A second call on the same folder keeps ports and data."""
        backend_if_new = wanted_backend()
        self.dir.mkdir(parents=True, exist_ok=True)
        # Passable for the user that PostgreSQL runs as.
        self.dir.chmod(self.dir.stat().st_mode | 0o011)
        (self.dir / "logs").mkdir(exist_ok=True)
        with install.lock(self.dir / "lock"):
            if not self.state_file.exists():
                self._lay_out(backend_if_new)
            backend = self.backend
            backend.install()
            try:
                backend.up()
            except BaseException:
                backend.down()
                raise

    def down(self, keep_logs=False):
        """Stops everything and removes what the stack wrote, and nothing else that is in the folder."""
        if self.state_file.exists():
            self.backend.down()
        for name in (*services.NAMES, *(() if keep_logs else ("logs",))):
            shutil.rmtree(self.dir / name, ignore_errors=True)
        for name in ("stack.json", "lock", "command"):
            (self.dir / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.dir.rmdir()

    @property
    def state(self):
        try:
            return json.loads(self.state_file.read_text())
        except FileNotFoundError:
            raise ServiceError(f"no stack in {self.dir}; `scripts/stack up` starts one") from None

    @property
    def backend(self):
        state = self.state
        return BACKENDS[state["backend"]](self.dir, state["ports"])

    def one_at_a_time(self, name):
        """Held while one service is stopped or started, so that two tests cannot do both at once."""
        return install.lock(self.dir / "logs" / f".{name}.lock")

    def environment(self):
        """What tests read."""
        at = {name: f"127.0.0.1:{port}" for name, port in self.state["ports"].items()}
        native = self.state["backend"] == "native"
        tokens = Unleash.env()
        development, production = tokens["INIT_BACKEND_API_TOKENS"].split(",")
        return {
            "FLAGSTREAM_TEST_KAFKA": at["kafka"],
            "FLAGSTREAM_TEST_DATABASE_URL": f"postgres://postgres:{PASSWORD}@{at['postgres']}/postgres",
            "FLAGSTREAM_TEST_REDIS_URL": f"redis://{at['redis']}",
            "FLAGSTREAM_TEST_UNLEASH_URL": f"http://{at['unleash']}",
            "FLAGSTREAM_TEST_UNLEASH_CLIENT_TOKEN": development,
            "FLAGSTREAM_TEST_UNLEASH_CLIENT_TOKEN_PRODUCTION": production,
            "FLAGSTREAM_TEST_UNLEASH_ADMIN_TOKEN": tokens["INIT_ADMIN_API_TOKENS"],
            "FLAGSTREAM_TEST_REGISTRY": f"http://{at['registry']}{REGISTRY_PATH}",
            "FLAGSTREAM_TEST_STACK_DIR": str(self.dir),
            "FLAGSTREAM_TEST_STACK": str(install.HERE.parent / "stack"),
            "FLAGSTREAM_TEST_NODE_MODULES": str(install.node_home() / "node_modules"),
            "FLAGSTREAM_TEST_PYTHON_PATH": str(install.python_home()),
            "FLAGSTREAM_TEST_GO_MODULES": str(install.go_modules() or ""),
            "FLAGSTREAM_TEST_MAVEN_REPOSITORY": str(install.maven_repository() or ""),
            # With containers only an example and a test need them.
            "FLAGSTREAM_TEST_KAFKA_JARS": str(install.kafka_jars() if native else ""),
            "FLAGSTREAM_TEST_CONNECT_JARS": str(install.connect_jars() if native else ""),
            "FLAGSTREAM_TEST_DUCKDB": str(install.duckdb_home() if native else ""),
            "FLAGSTREAM_TEST_UNLEASH_JARS": str(install.unleash_java_home() if native else ""),
            "FLAGSTREAM_TEST_AVRO_JARS": str(install.apicurio_home() / "lib" if native else ""),
        }

    def _lay_out(self, backend):
        names = BACKENDS[backend].PORTS
        ports = dict(zip(names, free_ports(len(names))))
        unfinished = self.state_file.with_suffix(".new")
        unfinished.write_text(json.dumps({"backend": backend, "ports": ports}, indent=2) + "\n")
        unfinished.rename(self.state_file)


def wanted_backend():
    """The name of the way to run the services: containers where an engine answers, unless the environment says otherwise."""
    wanted = os.environ.get("FLAGSTREAM_STACK_BACKEND", "auto")
    if wanted == "auto":
        return "compose" if engine_answers() else "native"
    if wanted not in BACKENDS:
        raise ServiceError(f"FLAGSTREAM_STACK_BACKEND: expected auto, native or compose, found {wanted!r}")
    return wanted


def free_ports(count):
    """Ports that nothing listens on, below those that the system gives to outgoing connections.

    A service that is stopped for a while must find its port free again; of the system's own range, any connection could have
    taken it, even a client's own attempt to reach the stopped service.
    """
    try:
        first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (FileNotFoundError, ValueError):
        first_outgoing = 32768
    candidates = range(10_000, first_outgoing) if first_outgoing > 12_000 else range(61_000, 65_000)
    found = []
    # Kept open until all are found, so that none is found twice.
    with contextlib.ExitStack() as held:
        for port in random.sample(candidates, min(len(candidates), 1000)):
            if len(found) == count:
                return found
            listener = held.enter_context(socket.socket())
            try:
                listener.bind(("127.0.0.1", port))
                found.append(port)
            except OSError:
                pass
    raise ServiceError("no free ports")
