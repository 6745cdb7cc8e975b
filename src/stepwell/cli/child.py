"""The worker process that `stepwell dev` starts and ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

from stepwell.cli.console import say

STOP_SECONDS: Final = 5.0


class Child:
    """One process at a time; only this object ends it, by its process id."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = [*command, "--parent", str(os.getpid())]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, deaf to Ctrl-C: the terminal sends that to both, but we decide when the child ends."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._process = subprocess.Popen(self._command)
        finally:
            signal.signal(signal.SIGINT, before)

    def ended(self) -> int | None:
        """The exit code if the process has ended by itself; told once."""
        if self._process is None or self._process.poll() is None:
            return None
        code, self._process = self._process.returncode, None
        return code

    def stop(self) -> None:
        """Ask the process to end, and end it if it does not."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            say("the worker does not end; killing it")
            process.kill()
            process.wait()
