"""The one bridge for code without an event loop: `*_sync` methods send their coroutine to a loop and wait."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from stepwell._engine.call import current, refuse_in_transaction
from stepwell.errors import WorkflowCodeError


class Portal:
    """Runs coroutines in the app's event loop, or in one of its own when the app has none."""

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Any]], on_fork: Callable[[], object]) -> None:
        self._connect = connect
        self._on_fork = on_fork
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._stop: Callable[[], object] | None = None
        self._ended = threading.Event()

    def entered(self, loop: asyncio.AbstractEventLoop) -> None:
        """The app is open in this loop."""
        self._loop = loop

    def left(self) -> None:
        """The app is closed."""
        self._loop = None

    async def end(self) -> bool:
        """Close the app that a `*_sync` call has opened in the background; False if it was opened otherwise."""
        stop, self._stop = self._stop, None
        if stop is None:
            return False
        stop()
        await asyncio.to_thread(self._ended.wait)
        return True

    def call(self, what: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine and wait for it; connects in a background thread at first use if need be."""
        refuse_in_transaction(what, current.get(None))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise WorkflowCodeError(f"{what} blocks and was called inside an event loop. Await the async method there.")
        if self._pid != os.getpid():
            self._begin_anew()
        with self._lock:
            if self._loop is None:
                self._start()
        loop = self._loop
        assert loop is not None  # noqa: S101 - set by _start
        return asyncio.run_coroutine_threadsafe(make(), loop).result()

    def _begin_anew(self) -> None:
        """This process was forked from one that had the app open: its loop and threads stayed there."""
        self._pid = os.getpid()
        self._loop = self._stop = None
        self._lock = threading.Lock()
        self._on_fork()

    def _start(self) -> None:
        ready: Future[None] = Future()
        stopping = self._ended = threading.Event()

        async def serve() -> None:
            loop = asyncio.get_running_loop()
            stop = asyncio.Event()
            self._stop = partial(loop.call_soon_threadsafe, stop.set)
            try:
                async with self._connect():
                    ready.set_result(None)
                    await stop.wait()
            except BaseException as error:
                if ready.done():
                    raise
                ready.set_exception(error)
            finally:
                stopping.set()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), name="stepwell-sync", daemon=True)
        thread.start()
        ready.result()
        atexit.register(self._end, stopping)

    def _end(self, stopping: threading.Event) -> None:
        if self._stop is not None and not stopping.is_set():
            self._stop()
            stopping.wait(5)
