"""The services as containers: docker-compose.yml, under a project name and on ports of their own."""

import hashlib
import os
import subprocess

from . import install, services
from .install import HERE, say
from .services import ServiceError

ROOT = HERE.parent.parent


def engine_answers():
    """Whether a container engine runs and the Compose plugin is there."""
    def succeeds(*argv):
        try:
            return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  timeout=20, check=False).returncode == 0
        except (FileNotFoundError, subprocess.TimeoutExpired):
            return False

    return succeeds("docker", "info") and succeeds("docker", "compose", "version")


class Compose:
    PORTS = services.NAMES

    def __init__(self, stack_dir, ports):
        self.ports = ports
        self.project = "flagstream-test-" + hashlib.sha256(str(stack_dir).encode()).hexdigest()[:12]

    @staticmethod
    def install():
        install.install_for_containers()

    def up(self):
        try:
            self._compose("up", "--detach", "--wait", "--wait-timeout", "180", *services.NAMES)
        except ServiceError:
            self._compose("logs", "--tail", "30", check=False)
            raise
        say("all containers are healthy")

    def down(self):
        self._compose("down", "--volumes", "--remove-orphans", "--timeout", "0")

    def start(self, name):
        # `start` would not wait until it is healthy again.
        self._compose("up", "--detach", "--wait", "--wait-timeout", "60", "--no-deps", "--no-recreate", name)

    def stop(self, name, kill):
        self._compose("kill", name) if kill else self._compose("stop", name)

    def pause(self, name):
        self._compose("pause", name)

    def resume(self, name):
        self._compose("unpause", name)

    def status(self):
        running = self._services_that_are("running")
        paused = self._services_that_are("paused")
        return {name: ("paused" if name in paused else "running" if name in running else "stopped", "container")
                for name in services.NAMES}

    def _services_that_are(self, state):
        return self._compose("ps", "--services", "--status", state, capture=True).split()

    def _compose(self, *args, check=True, capture=False):
        argv = ["docker", "compose", "--project-name", self.project, "--file", ROOT / "docker-compose.yml", *args]
        env = {f"{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        # Standard output belongs to the caller: `env` prints there what a shell evaluates.
        result = subprocess.run(argv, env={**os.environ, **env, "POSTGRES_FSYNC": "off"}, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE if capture else 2, text=True, check=False)
        if check and result.returncode != 0:
            raise ServiceError(f"`docker compose {' '.join(args)}` failed with exit code {result.returncode}")
        return result.stdout if capture else ""
