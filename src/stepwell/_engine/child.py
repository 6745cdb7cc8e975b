"""The other end of `processes.py`: what runs in a process for step bodies. It decides nothing and writes nothing.

The main thread runs one body after the other and ends when the worker hangs up. A body that is at work does not listen, so
a thread watches a pipe that only the worker's end holds open: when the worker is gone, however it ended, this process and
all that its bodies have started are killed.
"""

from __future__ import annotations

import contextvars
import io
import os
import pickle
import select
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Never, cast

from stepwell._engine.call import Call, current
from stepwell._engine.errand import Errand
from stepwell._engine.failure import record_error
from stepwell._engine.ports import FarFacts
from stepwell.errors import WorkflowCodeError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from stepwell._engine.call import Work
    from stepwell._engine.runner import Runner

LOOK_SECONDS: Final = 1.0
"""How often the parent is looked for, in case a process that it forked holds the pipe open."""


class Answer(NamedTuple):
    """What became of a body, as it travels back."""

    kind: Literal["value", "error", "not loaded", "not picklable"]
    pickled: bytes | None
    record: str


_main: dict[str, str] = {}
_loading_main = False


def is_loading_main() -> bool:
    """Whether this process, made for step bodies, is importing the main program to find a function in it."""
    return _loading_main


def main(orders: int, leash: int, parent: int) -> None:
    """Serve a worker.

    Args:
        orders: The descriptor of the connection that bodies and answers go through.
        leash: The descriptor of a pipe that ends when the worker does.
        parent: The process id of the worker.
    """
    from multiprocessing.connection import Connection

    for descriptor in (orders, leash):
        os.set_inheritable(descriptor, False)
    # Our deafness to these signals is not meant for what a body forks (a pool ends its processes by SIGTERM).
    os.register_at_fork(after_in_child=_hear_signals)
    threading.Thread(target=_watch, args=(leash, parent), name="stepwell-leash", daemon=True).start()
    with Connection(orders) as connection, suppress(EOFError, ConnectionError):
        sys.argv[:], main_program = pickle.loads(connection.recv_bytes())
        _main.update(main_program)
        while True:
            _serve(connection)


def _watch(leash: int, parent: int) -> None:
    poll = select.poll()
    poll.register(leash)
    while os.getppid() == parent and not poll.poll(LOOK_SECONDS * 1_000):
        pass
    os.killpg(0, signal.SIGKILL)


def _hear_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _serve(connection: Connection) -> None:
    facts: FarFacts = pickle.loads(connection.recv_bytes())
    answer = contextvars.copy_context().run(_answer, facts, connection.recv_bytes())
    for stream in (sys.stdout, sys.stderr):
        # Whoever kills this process between two bodies shall not swallow what they printed.
        with suppress(Exception):
            stream.flush()
    connection.send_bytes(pickle.dumps(answer))


def _answer(facts: FarFacts, pickled: bytes) -> Answer:
    try:
        errand: Errand = _Unpickler(io.BytesIO(pickled)).load()
    except (MemoryError, OSError) as error:
        return _failed("error", error)
    except BaseException as error:
        return _failed("not loaded", error)
    call = _far_call(facts)
    current.set(call)
    try:
        value = errand.carry_out()
    except BaseException as error:
        return _failed("error", error)
    finally:
        call.closed = True
    try:
        return Answer("value", pickle.dumps(value), "")
    except Exception as error:  # whatever the value's own methods raise
        return _failed("not picklable", error)


def _failed(kind: Literal["error", "not loaded", "not picklable"], error: BaseException) -> Answer:
    try:
        pickled = pickle.dumps(error)
    except Exception:  # whatever the error's own methods raise: the record must do
        pickled = None
    return Answer(kind, pickled, record_error(error))


class _Unpickler(pickle.Unpickler):
    """Imports the main program only when something of it is needed: often it is a command line that has nothing."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "__main__":
            _load_main()
        return super().find_class(module_name, global_name)


def _load_main() -> None:
    global _loading_main
    if not _main:
        return
    from multiprocessing import spawn

    _loading_main = True
    try:
        # As for the children of multiprocessing: under the name `__mp_main__`, so that guarded code does not run.
        spawn.prepare(dict(_main))
        _main.clear()
    finally:
        _loading_main = False


class _FarRunner:
    """Stands for the runner in a body's `current_step()`: has the facts, and refuses all else."""

    def __init__(self, facts: FarFacts) -> None:
        self.id = facts.execution_id
        self.run = facts.run
        self.claimed = facts
        self.path = facts.path

    def has_left(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Never:
        if name.startswith("__"):
            raise AttributeError(name)
        raise WorkflowCodeError(
            f"Step {self.path!r} runs in a process of its own (executor='process'), where current_step() gives facts only. Steps, waits and resources need the worker's process: use them in the workflow, or in a body without executor='process'."
        )


def _far_call(facts: FarFacts) -> Call:
    # Any work will do: that there is some says that this is the scope of a body.
    work = cast("Work", facts)
    runner = cast("Runner", _FarRunner(facts))
    return Call(runner, None, facts.name, facts.path, 0, work, attempt=facts.attempt, index=facts.index)
