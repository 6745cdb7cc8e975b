"""The other side of `measure.Child`: `python -m benchmarks.child module:function '{"argument": 1}'`."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import threading
from typing import Any


class Channel:
    """Talks with the process that has started this one, and ends this one with it."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, daemon=True).start()

    def say(self, message: object = None) -> None:
        print(json.dumps(message), flush=True)

    async def hear(self) -> Any:
        return await self._heard.get()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._loop.call_soon_threadsafe(self._heard.put_nowait, json.loads(line))
        os._exit(0)


async def _main(target: str, arguments: str) -> None:
    module, _, function = target.partition(":")
    run = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    await run(Channel(), **json.loads(arguments))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
