"""Fewer runs of the garbage collector while a worker executes.

Python looks for reference cycles after every 700 new objects (2,000 in newer releases), a number from the time of small
memories. A worker with a thousand executions in memory makes so many each few milliseconds, nearly all of which live, and
would spend a tenth of its time on looking at them.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

YOUNG_OBJECTS: Final = 5_000
_DEFAULTS: Final = (700, 2_000)


@contextmanager
def relaxed() -> Generator[None]:
    """Raise the first threshold of the collector, unless the program has set its own."""
    before = gc.get_threshold()
    if before[0] not in _DEFAULTS:
        yield
        return
    gc.set_threshold(YOUNG_OBJECTS, *before[1:])
    try:
        yield
    finally:
        if gc.get_threshold()[0] == YOUNG_OBJECTS:
            gc.set_threshold(*before)
