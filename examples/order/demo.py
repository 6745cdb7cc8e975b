"""The show: 600 orders, a worker that is killed again and again, and the proof that nothing was lost or done twice.

    python examples/order/demo.py [--folder FOLDER]

Exit code 0: everything in the final table is true. 1: something is not. 130: stopped by Ctrl-C.
"""

import argparse
import asyncio
import fcntl
import json
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ledger import VARIABLE, Reader
from proof import LEAST_IN_FLIGHT, Check, Evidence, History, Kill, prove
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from shop import Order, app, order_processing

from stepwell import ExecutionInfo

STARTED_IN: Final = Path.cwd()
HERE: Final = Path(__file__).resolve().parent
DEFAULT_FOLDER: Final = HERE / ".stepwell"
CONCURRENCY: Final = 500
WORKER: Final = (sys.executable, "-m", "stepwell", "--app", "shop:app")
FIRST_ORDERS: Final = 120
ORDERS_PER_SECOND: Final = 40
"""What arrives after the first ones, whether a worker lives or not."""
KILL_AT: Final = (0.12, 0.34, 0.56)
"""The shares of orders that have ended when the worker is killed."""
MARGIN: Final = 5
"""So many more executions in flight than needed are waited for: some end while the signal is on its way."""
LOOK_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 120.0
SHOWN_PROBLEMS: Final = 5
STATUSES: Final = ("queued", "running", "sleeping", "completed", "failed")


class DemoError(Exception):
    """The show cannot go on."""


class Place:
    """The folder of one demo at a time, and what it leaves there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = folder / "ledger.jsonl"
        self.log = folder / "worker.log"
        self.database = folder / "stepwell.db"
        self.url = f"sqlite:///{self.database}"

    @contextmanager
    def taken(self) -> Generator[None]:
        """Keep other demos out."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "demo.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DemoError(f"Another demo is running in {self.folder}. Wait for it, or pass --folder.") from None
            yield

    def clear(self) -> bool:
        """Remove what an earlier demo left, and nothing else."""
        old = [self.ledger, self.log, *self.folder.glob(f"{self.database.name}*")]
        found = [file for file in old if file.exists()]
        for file in found:
            file.unlink()
        return bool(found)


class Worker:
    """`stepwell worker` in a process of its own."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: asyncio.subprocess.Process | None = None
        self.started_us = 0

    @property
    def pid(self) -> int:
        """The id of the process, 0 when there is none."""
        return 0 if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process; what it says goes to the log."""
        self.started_us = _now_us()
        with self._place.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *WORKER,
                *("--database", self._place.url, "worker", "--concurrency", str(CONCURRENCY)),
                cwd=HERE,
                env={**os.environ, VARIABLE: str(self._place.ledger)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for the demo, which then ends its worker in order
            )

    def check(self) -> None:
        """Raise if the process has ended by itself."""
        if self._process is not None and self._process.returncode is not None:
            raise DemoError(
                f"The worker ended by itself with exit code {self._process.returncode}.\n{_tail(self._place.log)}"
            )

    async def kill(self) -> None:
        """SIGKILL: no handler, no last word."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def stop(self) -> int:
        """SIGTERM, and its exit code."""
        if self._process is None:
            return 0
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(15):
                code = await self._process.wait()
        except TimeoutError:
            await self.kill()
            return -signal.SIGKILL
        self._process = None
        return code


class Screen:
    """One line that is updated in a terminal, and a line a second elsewhere; events stand above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._began = time.monotonic()
        self._printed = 0.0

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def seconds(self) -> float:
        """How long the show has been running."""
        return time.monotonic() - self._began

    def event(self, text: str, style: str = "") -> None:
        """Say something that stays."""
        self.console.print(Text(f"{self.seconds:5.1f} s  {text}", style=style), soft_wrap=True)

    def progress(self, counts: Counter[str], bodies: int) -> None:
        """Show where things are."""
        parts = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
        line = Text(f"{self.seconds:5.1f} s  {parts}; {bodies} bodies", no_wrap=True, overflow="crop")
        if self._live is not None:
            self._live.update(line, refresh=True)
        elif self.seconds - self._printed >= 1:
            self._printed = self.seconds
            self.console.print(line, soft_wrap=True)


class Show:
    """Trigger, kill, wait, prove."""

    def __init__(self, screen: Screen, place: Place, orders: Sequence[Order]) -> None:
        self._screen = screen
        self._place = place
        self._orders = {order.id: order for order in orders}
        self._triggered = 0
        self._worker = Worker(place)
        self._ledger = Reader(place.ledger)
        self._kills: list[Kill] = []

    async def run(self) -> list[Check]:
        """Play it from the beginning to the end."""
        async with app.connected():
            await self._trigger(FIRST_ORDERS)
            self._screen.event(
                f"{FIRST_ORDERS} orders triggered, and nobody works yet; {ORDERS_PER_SECOND} a second will follow"
            )
            try:
                await self._work()
                code = await self._worker.stop()
            finally:
                await self._worker.kill()
            return [*prove(await self._evidence()), _check_exit(code, self._place.log)]

    async def _trigger(self, number: int) -> None:
        """Trigger what is missing to this number of orders: all of a lot, or none."""
        ids = list(self._orders)[self._triggered : number]
        if ids:
            await order_processing.trigger_many([self._orders[id] for id in ids], ids=ids)
            self._triggered += len(ids)

    async def _work(self) -> None:
        await self._worker.start()
        self._screen.event(f"worker {self._worker.pid} started")
        while not await self._look():
            await self._trigger(FIRST_ORDERS + int(self._screen.seconds * ORDERS_PER_SECOND))
            self._worker.check()
            if self._screen.seconds > PATIENCE_SECONDS:
                raise DemoError(f"Not everything has ended after {PATIENCE_SECONDS:.0f} s.\n{_tail(self._place.log)}")
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> bool:
        """Show the progress, kill the worker if the moment is right, and tell whether everything has ended."""
        executions = await _list_executions()
        self._ledger.read()
        counts = Counter(info.status for info in executions)
        bodies = len(self._ledger.open_bodies(self._worker.pid))
        self._screen.progress(Counter(counts), bodies)
        ended = counts["completed"] + counts["failed"] + counts["cancelled"] + counts["aborted"]
        if bodies and self._is_time_to_kill(executions, ended):
            await self._kill()
        return ended == len(self._orders)

    def _is_time_to_kill(self, executions: Sequence[ExecutionInfo], ended: int) -> bool:
        good = sum(kill.is_good for kill in self._kills)
        if good == len(KILL_AT) or ended < KILL_AT[good] * len(self._orders):
            return False
        if self._kills and not self._has_recovered(executions, self._kills[-1]):
            return False
        # A body of a second step shows that the first one is recorded. What counts is read after the kill.
        under_way = {body.execution for body in self._ledger.bodies if body.path != "validate"}
        running = {info.id for info in executions if info.status == "running"}
        return len(running & under_way) >= LEAST_IN_FLIGHT + MARGIN

    def _has_recovered(self, executions: Sequence[ExecutionInfo], kill: Kill) -> bool:
        """Whether all that the kill met running has moved on: what dies twice without progress is taken for poison."""
        hit = {id for id, history in kill.unfinished.items() if history.info.status == "running"}
        moved = {body.execution for body in self._ledger.bodies if (body.ended_us or 0) > kill.killed_us}
        still = {info.id for info in executions if info.status in ("queued", "running")}
        return not (hit & still) - moved

    async def _kill(self) -> None:
        pid = self._worker.pid
        await self._worker.kill()
        killed_us = _now_us()
        self._ledger.read()
        unfinished = {
            info.id: await _history(info.id)
            for info in await _list_executions()
            if info.status in ("running", "sleeping", "listening")
        }
        interrupted = self._ledger.open_bodies(pid)
        await self._worker.start()
        kill = Kill(
            pid=pid,
            killed_us=killed_us,
            restarted_us=self._worker.started_us,
            unfinished=unfinished,
            interrupted=interrupted,
        )
        self._kills.append(kill)
        self._screen.event(
            f"kill -9 {pid}: {len(kill.in_flight)} executions in flight, {len(kill.asleep)} asleep, "
            f"{len(interrupted)} bodies cut off{'' if kill.is_good else ' (too few, it does not count)'}",
            style="bold red",
        )
        self._screen.event(f"worker {self._worker.pid} started")

    async def _evidence(self) -> Evidence:
        self._ledger.read()
        histories = {info.id: await _history(info.id) for info in await _list_executions()}
        return Evidence(orders=self._orders, histories=histories, bodies=self._ledger.bodies, kills=self._kills)


async def _list_executions() -> list[ExecutionInfo]:
    page = await order_processing.list_executions(limit=1000)
    executions = page.executions
    while page.next_cursor is not None:
        page = await order_processing.list_executions(limit=1000, cursor=page.next_cursor)
        executions += page.executions
    return executions


async def _history(id: str) -> History:
    execution = order_processing.get_execution(id)
    return History(info=await execution.info(), steps=await execution.steps())


def _check_exit(code: int, log: Path) -> Check:
    check = Check(claim="exit code of the last worker after SIGTERM", seen=str(code))
    if code != 0:
        check.problems.append(f"the worker ended with exit code {code}; see {log}")
    return check


def _load_orders() -> list[Order]:
    lines = (HERE / "orders.jsonl").read_text(encoding="utf-8").splitlines()
    return [order_processing.parse_input(json.loads(line)) for line in lines]


def _report(console: Console, checks: Sequence[Check], seconds: float) -> bool:
    table = Table(box=SIMPLE, header_style="bold")
    table.add_column("")
    table.add_column(f"what must be true, after {seconds:.0f} s", overflow="fold")
    table.add_column("seen", overflow="fold")
    for check in checks:
        mark = Text("ok", "green") if check.is_true else Text("NO", "bold red")
        table.add_row(mark, Text(check.claim), Text(check.seen))
    console.print(table)
    for check in checks:
        for problem in check.problems[:SHOWN_PROBLEMS]:
            console.print(Text(f"{check.claim}: {problem}", "red"), soft_wrap=True)
        if len(check.problems) > SHOWN_PROBLEMS:
            console.print(Text(f"{check.claim}: ... and {len(check.problems) - SHOWN_PROBLEMS} more", "red"))
    return all(check.is_true for check in checks)


def _farewell(console: Console, place: Place) -> None:
    folder = os.path.relpath(HERE, STARTED_IN)
    stepwell = [os.path.relpath(Path(sys.executable).parent / "stepwell", HERE)]
    if place.folder != DEFAULT_FOLDER:
        stepwell += ["--database", place.url]
    console.print("\nThe database is still there. Look around:\n")
    console.print(f"  cd {shlex.quote(folder)}", soft_wrap=True)
    for command in ("executions describe latest", "executions describe latest:failed", "executions list"):
        console.print(f"  {shlex.join(stepwell)} {command}", soft_wrap=True)


def _tail(file: Path, lines: int = 20) -> str:
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _now_us() -> int:
    return time.time_ns() // 1000


async def _play(console: Console, place: Place) -> bool:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with Screen(console) as screen:
        checks = await Show(screen, place, _load_orders()).run()
    is_true = _report(console, checks, screen.seconds)
    _farewell(console, place)
    return is_true


def _arguments() -> Place:
    parser = argparse.ArgumentParser(description="600 orders, a worker that is killed again and again, and the proof.")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where database, ledger and log go")
    return Place(STARTED_IN / parser.parse_args().folder)


def main() -> int:
    """Play the show and give the exit code."""
    place = _arguments()
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
    console = Console(highlight=False, markup=False)
    os.chdir(HERE)
    app.use_database(place.url)
    try:
        with place.taken():
            if place.clear():
                console.print(f"Removed what an earlier demo left in {place.folder}", soft_wrap=True)
            return 0 if asyncio.run(_play(console, place)) else 1
    except DemoError as error:
        console.print(Text(str(error), "red"), soft_wrap=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped. The worker has ended, the database is left as it was.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
