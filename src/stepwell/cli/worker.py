"""`stepwell worker`: execute workflows until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Final

import click

from stepwell import App
from stepwell.cli.console import say, set_up_logging
from stepwell.cli.locate import app_of
from stepwell.cli.params import duration
from stepwell.cli.target import Target, target_options
from stepwell.errors import ConfigError

PARENT_SECONDS: Final = 1.0


@click.command()
@click.option("--concurrency", type=int, default=1000, show_default=True, help="How many executions at a time.")
@click.option(
    "--drain-timeout",
    metavar="DURATION",
    callback=duration,
    default="10 seconds",
    show_default=True,
    help="How long running bodies get to end after a signal to stop.",
)
@click.option("--parent", type=int, hidden=True, help="Stop when this process is gone.")
@target_options
@click.pass_obj
def worker(target: Target, /, concurrency: int, drain_timeout: float | str, parent: int | None) -> None:
    """Execute workflows until SIGTERM or Ctrl-C.

    Then nothing more is claimed, running bodies get time to end, the rest goes back to the queue, and the exit code is
    0. A second signal leaves at once.
    """
    app = app_of(target)
    if not app.workflows:
        raise ConfigError(
            f"App {app.name!r} has no workflows. Define one with @app.workflow, in a module that it imports."
        )
    set_up_logging(logging.INFO)
    asyncio.run(_work(app, concurrency, drain_timeout, parent))


async def _work(app: App, concurrency: int, drain_timeout: float | str, parent: int | None) -> None:
    stop = Stop()
    stop.catch()
    async with app.running(concurrency=concurrency, drain_timeout=drain_timeout) as running:
        if not logging.getLogger("stepwell").isEnabledFor(logging.INFO):
            # The user's logging keeps the line of the app to itself.
            say(f"worker {running.worker_id} runs {', '.join(app.workflows)} on {app.database}")
        await stop.wait(parent)
    say("stopped")


class Stop:
    """The wish of the outside world that this process ends."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wished = asyncio.Event()
        self._signals = 0

    def catch(self) -> None:
        """Listen to SIGTERM and SIGINT; the latter only if who started us has not made it deaf, as nohup does."""
        signal.signal(signal.SIGTERM, self._heard)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._heard)

    async def wait(self, parent: int | None) -> None:
        """Return when a signal has come, or the parent has gone."""
        while not self._wished.is_set() and parent in (None, os.getppid()):
            try:
                async with asyncio.timeout(None if parent is None else PARENT_SECONDS):
                    await self._wished.wait()
            except TimeoutError:
                continue

    # Handlers of Python, not of the loop: they answer even when a body blocks the loop.
    def _heard(self, number: int, _: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            _tell(b"left at once\n")
            os._exit(128 + number)
        _tell(b"stopping; a second signal leaves at once\n")
        self._loop.call_soon_threadsafe(self._wished.set)


def _tell(text: bytes) -> None:
    # Unbuffered, since a handler may interrupt a write to sys.stderr; nobody may be listening any more.
    with suppress(OSError):
        os.write(2, text)
