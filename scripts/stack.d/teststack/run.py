"""`scripts/stack run`: a command with the stack around it. Nothing of either remains afterwards, however it ends."""

import contextlib
import os
import signal
import subprocess
import sys

from .install import HERE
from .process import Process

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COMMAND_PATIENCE_S = 10


class Interrupted(BaseException):
    def __init__(self, number):
        super().__init__(number)
        self.number = number


def run(stack, command, keep_logs):
    for number in SIGNALS:
        signal.signal(number, _raise_interrupted)
    with _watchdog(stack, keep_logs):
        try:
            stack.up()
            return _run_command(stack, command)
        except Interrupted as interruption:
            return 128 + interruption.number
        finally:
            # A second signal must not cut the end short.
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            stack.down(keep_logs)


def _raise_interrupted(number, _frame):
    raise Interrupted(number)


def _run_command(stack, command):
    process = Process(stack.dir / "command")
    try:
        # A session of its own: what the command leaves behind is found by its process group.
        child = subprocess.Popen(command, env={**os.environ, **stack.environment()}, start_new_session=True)
    except OSError as error:
        print(f"stack: error: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    process.record(child.pid)
    try:
        code = child.wait()
        return code if code >= 0 else 128 - code
    except Interrupted as interruption:
        _signal_group(child.pid, interruption.number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(COMMAND_PATIENCE_S)
        raise
    finally:
        _signal_group(child.pid, signal.SIGKILL)


def _signal_group(leader, number):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


@contextlib.contextmanager
def _watchdog(stack, keep_logs):
    """A second process that cleans up when this one is killed: it reads from a pipe whose other end only we hold."""
    stack.dir.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, str(HERE.parent / "stack"), "_watch", "--dir", str(stack.dir)]
    watchdog = subprocess.Popen([*argv, *(["--keep-logs"] if keep_logs else [])], stdin=subprocess.PIPE,
                                start_new_session=True)
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            watchdog.communicate(b"done")


def watch(stack, keep_logs):
    """The watchdog itself."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() == b"done":
        return
    _end_command(stack)
    stack.down(keep_logs)


def _end_command(stack):
    if leader := Process(stack.dir / "command").pid:
        _signal_group(leader, signal.SIGKILL)
