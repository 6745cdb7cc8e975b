"""Which process this is, and whether another one still lives."""

from __future__ import annotations

import os
import platform
import socket
from functools import cache
from pathlib import Path

from stepwell.store.records import WorkerRow


def host_name() -> str:
    return socket.gethostname()


@cache
def boot_id() -> str:
    """Changes with each start of the machine; uptimes of two boots cannot be compared."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def started_at(pid: int) -> str:
    """When the process started, as the kernel counts, so that a reused process id is not taken for the old one.

    Empty when there is no such process; "?" where the system does not say.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() or not _answers(pid) else "?"
    except OSError:
        return "?"
    state, *rest = stat.rpartition(")")[2].split()
    # A zombie has exited: nothing of it runs, its parent just has not asked yet.
    return "" if state in "ZX" else rest[18]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_same_machine(worker: WorkerRow) -> bool:
    """Whether the worker's process id means something here."""
    return worker.host == host_name() and worker.boot_id == boot_id()


def is_gone(worker: WorkerRow) -> bool:
    """Whether the worker's process has certainly ended."""
    return is_same_machine(worker) and started_at(worker.pid) != worker.pid_started_at


def is_alive(worker: WorkerRow) -> bool:
    """Whether the worker's process certainly exists, be it stopped or stuck."""
    return is_same_machine(worker) and started_at(worker.pid) == worker.pid_started_at
