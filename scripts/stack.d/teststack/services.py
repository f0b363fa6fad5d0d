"""How each service is prepared, started and asked whether it is ready, as a process of this machine.

Settings that do not depend on the machine are in files beside this package, which docker-compose.yml reads too.
"""

import os
import pwd
import shutil
import signal
import subprocess

from . import install, probe
from .install import HERE
from .process import Process

PASSWORD = "postgres"
REGISTRY_PATH = "/apis/ccompat/v7"


# Kafka's own variable. A broker of a test run serves for half an hour on the processors that the tests use, so a collector
# without threads of its own suits it.
JVM_OPTIONS = "KAFKA_JVM_PERFORMANCE_OPTS"
JVM_OPTIONS_OF_TESTS = "-XX:+UseSerialGC"
JVM_OPTIONS_TO_STAY = "-XX:+UseG1GC"


class ServiceError(Exception):
    pass


def read_env(path):
    """The variables of an env file as Compose reads it."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


class Service:
    name = ""
    stop_signal = signal.SIGTERM
    stop_patience_s = 15
    start_limit_s = 60
    needs = ()        # services that must be ready before this one is started

    def __init__(self, stack_dir, ports):
        self.home = stack_dir / self.name
        self.log = stack_dir / "logs" / f"{self.name}.log"
        self.ports = ports
        self.port = ports[self.name]
        self.process = Process(self.home / "pid")

    def prepare(self):
        """Makes the data folder, once."""

    def spawn(self):
        raise NotImplementedError

    def ready(self):
        raise NotImplementedError

    def first_ready(self):
        """Runs once, when the service is ready for the first time."""


class Kafka(Service):
    name = "kafka"

    def prepare(self):
        at = "127.0.0.1"
        controller = self.ports["kafka_controller"]
        shared = (HERE / "kafka" / "server.properties").read_text()
        (self.home / "server.properties").write_text(shared + f"""
listeners=HOST://{at}:{self.port},CONTROLLER://{at}:{controller}
advertised.listeners=HOST://{at}:{self.port}
inter.broker.listener.name=HOST
controller.quorum.voters=1@{at}:{controller}
log.dirs={self.home / "data"}
""")
        cluster = self.env()["CLUSTER_ID"]
        with open(self.log, "ab") as output:
            subprocess.run(
                self.java("-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format", "-t", cluster, "-c",
                          self.home / "server.properties"),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.home, check=True)

    def spawn(self):
        options = os.environ.get(JVM_OPTIONS, JVM_OPTIONS_OF_TESTS).split()
        argv = self.java(*options, "-Djava.awt.headless=true",
                         "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
                         "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
                         *self.env()["KAFKA_HEAP_OPTS"].split(), "kafka.Kafka", self.home / "server.properties")
        self.process.spawn(argv, log=self.log, cwd=self.home)

    def ready(self):
        return probe.kafka(self.port)

    @staticmethod
    def env():
        return read_env(HERE / "kafka" / "kafka.env")

    @staticmethod
    def java(*args):
        return ["java", "-cp", f"{install.kafka_jars()}/*", *map(str, args)]


class Postgres(Service):
    name = "postgres"
    stop_signal = signal.SIGINT     # its "fast" shutdown: open connections are closed

    def __init__(self, stack_dir, ports):
        super().__init__(stack_dir, ports)
        self.bin = install.postgres_bin()
        self.user = _unprivileged_user()

    def prepare(self):
        # A copy: the unprivileged user need not be able to read the checkout.
        shutil.copy(HERE / "postgres" / "postgresql.conf", self.home)
        if self.user:
            os.chown(self.home, self.user.pw_uid, self.user.pw_gid)
            self._check_reachable()
        password_file = self.home / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        self._run("initdb", "-D", self.home / "data", "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password_file}",
                  "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")

    def spawn(self):
        # The server and all its children have ended. PostgreSQL's own check would treat a killed process that has not been
        # reaped yet as running.
        (self.home / "data" / "postmaster.pid").unlink(missing_ok=True)
        # fsync off: test data need not survive a power failure, and a killed server recovers anyway.
        settings = {"config_file": self.home / "postgresql.conf", "port": self.port, "listen_addresses": "127.0.0.1",
                    "unix_socket_directories": "", "fsync": "off"}
        argv = [self.bin / "postgres", "-D", self.home / "data"]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        self.process.spawn(argv, log=self.log, cwd=self.home, user=self.user)

    def ready(self):
        return probe.postgres(self.port, self.bin / "pg_isready")

    def first_ready(self):
        url = f"postgres://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        self._run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", HERE / "postgres" / "init.sql", url, as_user=False)

    def _run(self, program, *args, as_user=True):
        user = self.user if as_user else None
        credentials = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        with open(self.log, "ab") as output:
            subprocess.run([self.bin / program, *args], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                           cwd=self.home, check=True, **credentials)

    def _check_reachable(self):
        seen = subprocess.run(["test", "-w", self.home], user=self.user.pw_uid, group=self.user.pw_gid, extra_groups=[],
                              check=False)
        if seen.returncode != 0:
            raise ServiceError(f"PostgreSQL runs as user {self.user.pw_name}, who cannot reach {self.home}")


def _unprivileged_user():
    """Whom PostgreSQL runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    raise ServiceError("PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody`")


class Redis(Service):
    name = "redis"

    def spawn(self):
        argv = ["redis-server", HERE / "redis" / "redis.conf", "--port", str(self.port), "--bind", "127.0.0.1",
                "--dir", self.home]
        self.process.spawn(argv, log=self.log, cwd=self.home)

    def ready(self):
        return probe.redis(self.port)


class Unleash(Service):
    name = "unleash"
    needs = ("postgres",)

    def spawn(self):
        env = {
            **self.env(),
            "DATABASE_URL": f"postgres://postgres:{PASSWORD}@127.0.0.1:{self.ports['postgres']}/unleash",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(self.port),
            "UNLEASH_URL": f"http://127.0.0.1:{self.port}",
        }
        self.process.spawn(["node", "-e", "require('unleash-server').start()"], log=self.log,
                           cwd=install.unleash_home(), env=env)

    def ready(self):
        return probe.http(self.port, "/health")

    @staticmethod
    def env():
        return read_env(HERE / "unleash" / "unleash.env")


class Registry(Service):
    """A schema registry: Apicurio, which has Confluent's API."""

    name = "registry"
    start_limit_s = 90

    def spawn(self):
        home = install.apicurio_home()
        jar = next(home.glob("*-runner.jar"))
        argv = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1",
                f"-Dquarkus.http.port={self.port}", "-jar", jar]
        self.process.spawn(argv, log=self.log, cwd=home)

    def ready(self):
        return probe.http(self.port, f"{REGISTRY_PATH}/subjects")


ALL = (Kafka, Postgres, Redis, Unleash, Registry)
NAMES = tuple(service.name for service in ALL)
