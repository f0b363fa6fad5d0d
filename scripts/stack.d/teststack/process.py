"""Processes that outlive the command that started them: found again by their pid file, signalled with all their children."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path


def _stat(pid):
    """(state, parent, start time) of a process, or None. The start time tells it from a later one with the same pid."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1]), int(fields[19])


def _descendants(root):
    """`root` and all processes below it, parents first."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(entry)):
            children.setdefault(stat[1], []).append(int(entry))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def _send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


class Process:
    """One service's process, known by its pid file."""

    def __init__(self, pid_file):
        self.pid_file = Path(pid_file)

    def spawn(self, argv, *, log, cwd, env=None, user=None):
        """Starts `argv` in a session of its own, so that a Ctrl-C at the terminal does not reach it."""
        credentials = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        with open(log, "ab") as output:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd,
                env={**os.environ, **(env or {})}, start_new_session=True, **credentials)
        # The process is stopped by another command or by `end` below, which find it by its pid file. This handle is not awaited.
        child.returncode = 0
        self.record(child.pid)

    def record(self, pid):
        stat = _stat(pid)
        self.pid_file.write_text(f"{pid} {stat[2] if stat else 0}\n")

    @property
    def pid(self):
        """The pid while the process lives, else None."""
        try:
            pid, started = map(int, self.pid_file.read_text().split())
        except (FileNotFoundError, ValueError):
            return None
        stat = _stat(pid)
        return pid if stat and stat[0] not in "ZX" and stat[2] == started else None

    def paused(self):
        pid = self.pid
        stat = pid and _stat(pid)
        return bool(stat) and stat[0] == "T"

    def signal_tree(self, number):
        if pid := self.pid:
            for each in _descendants(pid):
                _send(each, number)

    def end(self, number, patience_s):
        """Sends `number` and waits; after `patience_s`, or at once where it is 0, kills the process and all its children."""
        pid = self.pid
        if pid:
            family = [(each, _stat(each)) for each in _descendants(pid)]
            if patience_s:
                self.signal_tree(signal.SIGCONT)
                _send(pid, number)
                self._wait_until_gone([(pid, _stat(pid))], patience_s)
            # Parents first, so that a supervisor does not restart a child that was stopped before it.
            for each, stat in family:
                if stat and _lives(each, stat):
                    _send(each, signal.SIGKILL)
            self._wait_until_gone(family, 10)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)     # ours, where the same command started it
        self.pid_file.unlink(missing_ok=True)

    @staticmethod
    def _wait_until_gone(family, limit_s):
        deadline = time.monotonic() + limit_s
        while any(stat and _lives(pid, stat) for pid, stat in family) and time.monotonic() < deadline:
            time.sleep(0.02)


def _lives(pid, before):
    now = _stat(pid)
    return bool(now) and now[0] not in "ZX" and now[2] == before[2]
