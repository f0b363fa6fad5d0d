"""The services as processes of this machine."""

import concurrent.futures
import signal
import subprocess
import threading
import time

from . import install, services
from .install import say
from .services import ServiceError


class Native:
    PORTS = ("kafka", "kafka_controller", "postgres", "redis", "unleash", "registry")

    def __init__(self, stack_dir, ports):
        self.dir = stack_dir
        self.services = {service.name: service(stack_dir, ports) for service in services.ALL}
        self._giving_up = threading.Event()

    @staticmethod
    def install():
        install.install_native()

    def up(self):
        """Starts all of them side by side; each is ready when this returns."""
        ready = {name: threading.Event() for name in self.services}
        with concurrent.futures.ThreadPoolExecutor(len(self.services)) as pool:
            tasks = [pool.submit(self._start_in_turn, service, ready) for service in self.services.values()]
            try:
                for task in concurrent.futures.as_completed(tasks):
                    task.result()
            except BaseException:
                # Also for a signal: the other threads must not start anything any more.
                self._giving_up.set()
                raise

    def down(self):
        self._giving_up.set()
        for service in reversed(self.services.values()):
            # Nothing is kept, so nothing needs a tidy end.
            service.process.end(service.stop_signal, patience_s=0)

    def start(self, name):
        self._start(self.services[name])

    def stop(self, name, kill):
        service = self.services[name]
        service.process.end(service.stop_signal, 0 if kill else service.stop_patience_s)

    def pause(self, name):
        self.services[name].process.signal_tree(signal.SIGSTOP)

    def resume(self, name):
        self.services[name].process.signal_tree(signal.SIGCONT)

    def status(self):
        """{name: (state, detail)}"""
        found = {}
        for name, service in self.services.items():
            pid = service.process.pid
            state = "stopped" if not pid else "paused" if service.process.paused() else \
                "running" if service.ready() else "not ready"
            found[name] = state, f"pid {pid}" if pid else ""
        return found

    def _start_in_turn(self, service, ready):
        for needed in service.needs:
            while not ready[needed].wait(0.05):
                self._check_giving_up(service)
        self._start(service)
        ready[service.name].set()

    def _start(self, service):
        started = time.monotonic()
        if service.process.pid:
            self._wait_until_ready(service)
            return
        prepared = service.home / "prepared"
        first_time = not prepared.exists()
        try:
            if first_time:
                service.home.mkdir(exist_ok=True)
                service.prepare()
            self._check_giving_up(service)
            service.spawn()
            self._wait_until_ready(service)
            if first_time:
                service.first_ready()
                prepared.touch()
        except (OSError, subprocess.SubprocessError) as error:
            raise self._failure(service, str(error)) from error
        say(f"{service.name} ready on 127.0.0.1:{service.port} after {time.monotonic() - started:.1f} s")

    def _wait_until_ready(self, service):
        deadline = time.monotonic() + service.start_limit_s
        while not service.ready():
            self._check_giving_up(service)
            if not service.process.pid:
                raise self._failure(service, "ended while starting")
            if time.monotonic() > deadline:
                raise self._failure(service, f"not ready within {service.start_limit_s} s")
            time.sleep(0.05)

    def _check_giving_up(self, service):
        if self._giving_up.is_set():
            raise ServiceError(f"{service.name}: given up")

    @staticmethod
    def _failure(service, what):
        try:
            tail = service.log.read_text(errors="replace").splitlines()[-30:]
        except FileNotFoundError:
            tail = []
        return ServiceError("\n".join([f"{service.name}: {what}; the end of its log:", *("  " + line for line in tail)]))
