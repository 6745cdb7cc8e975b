"""One process for step bodies, seen from its worker: starting it, talking to it, ending it. `child.py` is the other end."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from stepwell._engine.ports import FarFacts

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from stepwell._engine.child import Answer

EXIT_SECONDS: Final = 0.2
"""How long a process gets to end by itself once it is told to."""
LOOK_SECONDS: Final = 1.0
"""How often a busy process is looked at, in case something that it started holds its connection open after its death."""

_PROGRAM: Final = """\
import sys
sys.path[:] = {path!r}
import signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
from stepwell._engine.child import main
main({orders}, {leash}, {parent})
"""


class Process:
    """A child process, and the ends of what connects us."""

    def __init__(self) -> None:
        # multiprocessing takes 10 ms to import, and most workers never need it.
        from multiprocessing import spawn
        from multiprocessing.connection import Pipe

        ours, theirs = Pipe()
        their_leash, self._leash = os.pipe()
        program = _PROGRAM.format(path=_import_path(), orders=theirs.fileno(), leash=their_leash, parent=os.getpid())
        try:
            self._popen = subprocess.Popen(
                [spawn.get_executable(), *_interpreter_flags(), "-c", program],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), their_leash),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(self._leash)
            raise
        finally:
            theirs.close()
            os.close(their_leash)
        self._connection: Connection[Any, Any] = ours
        self._is_greeted = False
        self.is_killed = False

    def send(self, facts: FarFacts, message: bytes) -> None:
        if not self._is_greeted:
            self._connection.send_bytes(pickle.dumps((sys.argv, _main_program())))
            self._is_greeted = True
        self._connection.send_bytes(pickle.dumps(facts))
        self._connection.send_bytes(message)

    def receive(self, lock: threading.Lock) -> Answer:
        """Wait for the answer; EOFError when the process has died."""
        while not self._connection.poll(LOOK_SECONDS):
            with lock:
                ended = self._popen.poll() is not None
            if ended and not self._connection.poll(0):
                raise EOFError
        return pickle.loads(self._connection.recv_bytes())

    def kill(self) -> None:
        """Kill it and all that it has started."""
        self.is_killed = True
        if self._popen.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def end(self) -> int:
        """Let it end by itself, or kill it, along with what its bodies have left behind; gives the exit code."""
        self._connection.close()
        try:
            self._popen.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        code = self._popen.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        os.close(self._leash)
        return code


def _import_path() -> list[str]:
    """Where modules come from here; an empty entry means the current folder, which may change before it is used."""
    return [entry or os.getcwd() for entry in map(str, sys.path)]


def _interpreter_flags() -> list[str]:
    """The options of this interpreter, such as -O and -X dev."""
    return subprocess._args_from_interpreter_flags()  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue, reportUnknownVariableType] - what multiprocessing uses


def _main_program() -> dict[str, str]:
    """How the child finds the main program, should it need something of it; the same rules as in multiprocessing."""
    main: Any = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return {"init_main_from_name": spec.name}
    return {} if file is None else {"init_main_from_path": os.path.abspath(file)}
