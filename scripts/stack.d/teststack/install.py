"""What the stack needs: programs of the machine, and what is fetched once into the cache.

The cache is `$FLAGSTREAM_CACHE`, by default `~/.cache/flagstream`. A folder in it carries the hash of the file that names its
versions, so that a changed version is fetched anew and an unchanged one never.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent

# apt-get starts the services of the packages it installs; a policy that forbids it is Debian's way to have the programs only.
APT_SCRIPT = r"""
set -e
if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update -qq
apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$@"
"""


class InstallError(Exception):
    pass


def say(text):
    print(f"stack: {text}", file=sys.stderr, flush=True)


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FLAGSTREAM_CACHE") or Path(base) / "flagstream").resolve()


@contextlib.contextmanager
def lock(path):
    """Held by one process at a time; given back by the system when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- fetched -----------------------------------------------------------------------------------------------------------------

def kafka_jars():
    """The folder of the broker's jars."""
    return _maven("kafka", "copy-dependencies")


def connect_jars():
    """The folder of the jars of Kafka Connect."""
    return _maven("connect", "copy-dependencies")


def apicurio_home():
    """The folder of the schema registry's jars."""
    return _maven("apicurio", "unpack-dependencies")


def unleash_home():
    """The folder with the Unleash server in its node_modules."""
    return _npm("unleash")


def node_home():
    """The folder with the packages that tests use in its node_modules."""
    return _npm("node")


def unleash_java_home():
    """The folder of the jars of Unleash's SDK for Java."""
    return _maven("unleash-java", "copy-dependencies")


def python_home():
    """The folder of the Python packages that tests use."""
    return _pip("python", HERE / "python" / "requirements.txt")


def duckdb_home():
    """The folder of the Python package with the engine that reads what Kafka Connect wrote."""
    return _pip("duckdb", HERE / "connect" / "requirements.txt")


def _pip(name, requirements):
    def fetch(folder):
        need("pip3")
        _quiet(["pip3", "install", "--quiet", "--no-deps", "--no-compile", "--target", folder, "-r", requirements])

    return _cached(name, [requirements], fetch)


def go_modules():
    """The folder of the Go modules that an example uses, or None where there is no Go: tests then say that they are skipped."""
    if not shutil.which("go"):
        return None
    answer = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=False,
                            env={**os.environ, "GOTOOLCHAIN": "local"})
    if tuple(map(int, re.findall(r"\d+", answer.stdout)[:2])) < LEAST_GO:
        say(f"go {'.'.join(map(str, LEAST_GO))} or newer is needed for some tests, found: {answer.stdout.strip() or 'no version'}")
        return None
    source = HERE.parent.parent / "examples" / "openfeature" / "go"

    def fetch(folder):
        # Writable, so that the folder can be removed like any other.
        settings = {"GOMODCACHE": str(folder), "GOFLAGS": "-mod=readonly -modcacherw", "GOTOOLCHAIN": "local"}
        _quiet(["go", "mod", "download"], cwd=source, env={**os.environ, **settings})

    return _cached("go", [source / "go.sum"], fetch)


def maven_repository():
    """Maven's local repository with what the packages for Java need, or None where Maven or a compiler is missing: tests then
    say that they are skipped."""
    if not shutil.which("mvn") or not shutil.which("javac"):
        return None
    root = HERE.parent.parent
    java = root / "clients" / "java"
    poms = [java / "pom.xml", *sorted(java.glob("*/pom.xml")), root / "examples" / "kafka-streams" / "pom.xml"]

    def fetch(folder):
        # A build fetches what `dependency:go-offline` misses. It builds a copy, because a test may build at the same time.
        with tempfile.TemporaryDirectory(prefix="flagstream-java-") as copy:
            for part in ("clients/java", "examples/kafka-streams", "schemas"):
                shutil.copytree(root / part, Path(copy) / part, ignore=shutil.ignore_patterns("target"))
            _quiet(["mvn", "-B", "-q", "-f", Path(copy) / "clients/java/pom.xml", f"-Dmaven.repo.local={folder}", "package",
                    "-DskipTests", "-DskipArchives"])

    return _cached("maven", poms, fetch)


def _maven(name, goal):
    pom = HERE / name / "pom.xml"

    def fetch(folder):
        need("java", "mvn")
        # Maven writes marker files beside its pom, and those of an earlier download make it skip the download.
        shutil.copy(pom, folder)
        _quiet(["mvn", "-B", "-q", "-f", folder / pom.name, f"dependency:{goal}", f"-DoutputDirectory={folder}"])

    return _cached(name, [pom], fetch)


def _npm(name):
    source = HERE / name
    files = [source / "package.json", source / "package-lock.json"]

    def fetch(folder):
        need("node", "npm")
        for file in (*files, source / ".npmrc"):
            shutil.copy(file, folder)
        _quiet(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder)

    return _cached(f"npm-{name}", files, fetch)


def _cached(name, sources, fetch):
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    target = cache_dir() / f"{name}-{digest}"
    if target.is_dir():
        return target
    with lock(cache_dir() / f"{name}.lock"):
        if target.is_dir():
            return target
        say(f"fetching {name} into {target}")
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_dir()))
        try:
            fetch(unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _quiet(argv, cwd=None, env=None):
    """Runs a command; shows what it printed only when it fails."""
    result = subprocess.run(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            check=False)
    if result.returncode != 0:
        sys.stderr.write(result.stdout.decode(errors="replace"))
        raise InstallError(f"`{' '.join(map(str, argv))}` failed with exit code {result.returncode}")


# --- programs of the machine -------------------------------------------------------------------------------------------------

def postgres_bin():
    """The folder of the newest PostgreSQL server's programs, or None. Debian keeps them out of the PATH."""
    def version(folder):
        return [int(part) for part in re.findall(r"\d+", folder.parent.name)]

    found = sorted((f for f in Path("/usr/lib/postgresql").glob("*/bin") if (f / "initdb").exists()), key=version)
    if found:
        return found[-1]
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


# program -> the Debian package that has it
PACKAGES = {
    "chromium": "chromium",
    "java": "default-jdk-headless",
    "mvn": "maven",
    "node": "nodejs",
    "npm": "npm",
    "pip3": "python3-pip",
    "redis-server": "redis-server",
    "postgres": "postgresql",
    "pgbouncer": "pgbouncer",
    "nss_wrapper": "libnss-wrapper",
}

# Libraries that tests load into a service: another table of host names.
LIBRARIES = {
    "nss_wrapper": "libnss_wrapper.so",
}


# The names of the browser elsewhere.
OTHER_NAMES = {"chromium": ("chromium-browser", "google-chrome")}


def _present(program):
    if program in LIBRARIES:
        return any(Path("/usr/lib").glob(f"*/{LIBRARIES[program]}"))
    if program == "postgres":
        return postgres_bin() is not None
    return any(shutil.which(name) for name in (program, *OTHER_NAMES.get(program, ())))


def browser():
    """The browser that the console is tested with. Where there is none and none can be installed, its tests are skipped."""
    try:
        need("chromium")
    except InstallError as error:
        say(f"the console is not tested in a browser: {error}")


def need(*programs):
    """Makes sure that the programs are there, installing them where that is possible."""
    missing = [program for program in programs if not _present(program)]
    if missing:
        with lock(cache_dir() / "apt.lock"):
            _apt_install([program for program in missing if not _present(program)])
    for program in programs:
        _check_version(program)


def _apt_install(programs):
    if not programs:
        return
    packages = [PACKAGES[program] for program in programs]
    wanted = f"{', '.join(programs)} (Debian: {' '.join(packages)})"
    become_root = [] if os.geteuid() == 0 else ["sudo"]
    if not shutil.which("apt-get"):
        raise InstallError(f"not found: {wanted}; there is no apt-get here, install them by hand")
    if become_root and not shutil.which("sudo"):
        raise InstallError(f"not found: {wanted}; installing them needs root or sudo")
    say(f"installing {' '.join(packages)}")
    _quiet([*become_root, "sh", "-c", APT_SCRIPT, "sh", *packages])
    if still := [program for program in programs if not _present(program)]:
        raise InstallError(f"still not found after installing: {', '.join(still)}")


# Kafka 4 and Unleash 7 fail obscurely on older ones.
LEAST_VERSION = {
    "java": (17, ""),
    "node": (20, " (Debian's own package is new enough from Debian 13 on)"),
}


LEAST_GO = (1, 24)


def _check_version(program):
    if program not in LEAST_VERSION:
        return
    least, hint = LEAST_VERSION[program]
    answer = subprocess.run([program, "-version" if program == "java" else "--version"],
                            capture_output=True, text=True, check=False)
    found = re.search(r"\d+", answer.stderr + answer.stdout)
    if not found or int(found.group()) < least:
        raise InstallError(f"{program} {least} or newer is needed{hint}, found: {(answer.stderr + answer.stdout).strip()}")


def install_native():
    """Everything that the services need as processes of this machine."""
    need("java", "node", "redis-server", "postgres", "pgbouncer", *LIBRARIES)
    kafka_jars()
    connect_jars()
    duckdb_home()
    apicurio_home()
    unleash_home()
    node_home()
    python_home()
    unleash_java_home()
    go_modules()
    maven_repository()
    browser()


def install_for_containers():
    """With containers only the packages that tests use themselves are needed."""
    need("node")
    node_home()
    python_home()
    go_modules()
    maven_repository()
    browser()
