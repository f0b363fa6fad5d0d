"""The commands of scripts/stack."""

import argparse
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from . import install, services
from .install import InstallError, say
from .run import Interrupted, run, watch
from .services import ServiceError
from .stack import BACKENDS, Stack, wanted_backend


def main(argv):
    options = _parser().parse_args(argv)
    try:
        return options.do(options) or 0
    except (InstallError, ServiceError, subprocess.CalledProcessError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Interrupted as interruption:
        return 128 + interruption.number


def _parser():
    parser = argparse.ArgumentParser(prog="scripts/stack", description="Real Kafka, PostgreSQL, Redis and Unleash for tests.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name, do, text, with_dir=True):
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(do=do)
        if with_dir:
            added.add_argument("--dir", metavar="D", help="the stack's folder (default: $FLAGSTREAM_TEST_STACK_DIR, else one "
                                                          "per checkout in the folder for temporary files)")
        return added

    command("up", _up, "start everything, print the environment for tests, leave it running")
    command("down", _down, "stop everything and remove its data")
    command("env", _env, "print the environment for tests: eval \"$(scripts/stack env)\"")
    command("status", _status, "print what runs; exit code 1 unless all of it does")
    command("install", _install, "fetch what is needed, start nothing", with_dir=False)

    added = commands.add_parser("run", help="start everything, run a command, stop everything; exit with the command's code")
    added.set_defaults(do=_run)
    added.add_argument("--dir", metavar="D", help="the stack's folder, whose logs are then kept (default: a temporary one)")
    added.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …")

    for name, do, text in (("stop", _stop, "stop services; data and ports are kept"),
                           ("start", _start, "start services again, on the same data and ports"),
                           ("restart", _restart, "stop and start services"),
                           ("pause", _pause, "freeze services (SIGSTOP)"),
                           ("resume", _resume, "let frozen services go on (SIGCONT)")):
        added = command(name, do, text)
        added.add_argument("services", nargs="+", choices=services.NAMES, metavar="SERVICE",
                           help=", ".join(services.NAMES))
        if do in (_stop, _restart):
            added.add_argument("--kill", action="store_true", help="SIGKILL instead of a tidy end")

    added = commands.add_parser("_watch")     # not for people: see run.py
    added.add_argument("--dir", required=True)
    added.add_argument("--keep-logs", action="store_true")
    added.set_defaults(do=lambda options: watch(Stack(options.dir), options.keep_logs))
    return parser


def _stack(options):
    default = Path(tempfile.gettempdir()) / \
        f"flagstream-stack-{os.getuid()}-{hashlib.sha256(str(install.HERE).encode()).hexdigest()[:8]}"
    return Stack(options.dir or os.environ.get("FLAGSTREAM_TEST_STACK_DIR") or default)


def _up(options):
    stack = _stack(options)
    # A half-started stack is stopped again, as `up` does for any failure.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault(services.JVM_OPTIONS, services.JVM_OPTIONS_TO_STAY)
    stack.up()
    _print_environment(stack)


def _down(options):
    _stack(options).down()


def _env(options):
    _print_environment(_stack(options))


def _print_environment(stack):
    for name, value in stack.environment().items():
        print(f"export {name}={shlex.quote(value)}")


def _status(options):
    stack = _stack(options)
    ports = stack.state["ports"]
    found = stack.backend.status()
    for name, (state, detail) in found.items():
        print(f"{name:<9} {state:<10} 127.0.0.1:{ports[name]:<6} {detail}".rstrip())
    return 0 if all(state == "running" for state, _ in found.values()) else 1


def _install(_options):
    BACKENDS[wanted_backend()].install()


def _run(options):
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        say("error: run: no command given (scripts/stack run -- COMMAND …)")
        return 2
    folder = options.dir or tempfile.mkdtemp(prefix="flagstream-stack-")
    return run(Stack(folder), command, keep_logs=options.dir is not None)


def _each(options, act):
    stack = _stack(options)
    backend = stack.backend
    for name in options.services:
        with stack.one_at_a_time(name):
            act(backend, name)


def _stop(options):
    _each(options, lambda backend, name: backend.stop(name, options.kill))


def _start(options):
    _each(options, lambda backend, name: backend.start(name))


def _restart(options):
    def restart(backend, name):
        backend.stop(name, options.kill)
        backend.start(name)

    _each(options, restart)


def _pause(options):
    _each(options, lambda backend, name: backend.pause(name))


def _resume(options):
    _each(options, lambda backend, name: backend.resume(name))
