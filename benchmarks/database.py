"""Looking into database files, and filling them, behind the engine's back."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

_WAL_HEADER: Final = 32
_FRAME_HEADER: Final = 24


@contextmanager
def opened(path: Path) -> Generator[sqlite3.Connection]:
    """A connection of our own, in autocommit mode."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as connection:
        yield connection


def check(path: Path, *, completed: int, steps: int) -> None:
    """Fail unless so many executions and steps have been completed: a figure for work not done is worth nothing."""
    with opened(path) as connection:
        found = connection.execute(
            "SELECT (SELECT count(*) FROM executions WHERE status = 'completed'),"
            " (SELECT count(*) FROM steps WHERE status = 'completed')"
        ).fetchone()
    if found != (completed, steps):
        raise RuntimeError(
            f"{found[0]:,} executions and {found[1]:,} steps were completed, expected {completed:,} and {steps:,}."
        )


def commits_in_wal(path: Path) -> int:
    """How many commits the write-ahead log holds: frames that carry the size of the database end a transaction."""
    log = path.with_name(f"{path.name}-wal").read_bytes()
    page_size = int.from_bytes(log[8:12])
    salts = log[16:24]
    commits = 0
    for frame in range(_WAL_HEADER, len(log), _FRAME_HEADER + page_size):
        if log[frame + 8 : frame + 16] != salts:
            break  # what follows is left from before the last checkpoint
        commits += log[frame + 4 : frame + 8] != b"\x00\x00\x00\x00"
    return commits
