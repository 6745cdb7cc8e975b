"""The table at the end."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from typing import Final

from benchmarks.floor import WARN_BELOW
from benchmarks.measure import Figure

_HEADINGS: Final = ("measured", "median", "min", "max", "unit", "target", "")


def show(results: dict[str, list[Figure]], *, reduced: bool) -> None:
    """Print all figures: coloured for people, plain for files and pipes."""
    rows = [_row(figure, judged=not reduced) for figures in results.values() for figure in figures]
    if sys.stdout.isatty():
        _print_rich(rows)
    else:
        _print_plain(rows)
    load = os.getloadavg()[0]
    print(
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores, load {load:.1f}."
    )
    if reduced:
        print("Measured at a reduced scale: whether it works, not how fast.")
    elif slow := [figure for figure in results.get("floor", []) if figure.ok is False]:
        print(f"Warning: the floor wrote {slow[0].median:,.0f} rows/s, under {WARN_BELOW:,}: a slow or busy machine.")


def _row(figure: Figure, *, judged: bool) -> tuple[str, ...]:
    if figure.at_least is not None:
        target = f"≥ {_number(figure.at_least)}"
    elif figure.at_most is not None:
        target = f"≤ {_number(figure.at_most)}"
    else:
        target = ""
    verdict = {True: "ok", False: "MISSED", None: ""}[figure.ok if judged else None]
    what = f"{figure.what} ({figure.note})" if figure.note else figure.what
    spread = (figure.median, min(figure.values), max(figure.values))
    return what, *map(_number, spread), figure.unit, target, verdict


def _number(value: float) -> str:
    if value >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 20 else f"{value:.2f}"


def _print_plain(rows: list[tuple[str, ...]]) -> None:
    table = [_HEADINGS, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADINGS))]
    for row in table:
        first, *rest = (
            cell.rjust(width) if 1 <= column <= 3 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *rest]).rstrip())


def _print_rich(rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for column, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if 1 <= column <= 3 else "left")
    for row in rows:
        style = {"ok": "green", "MISSED": "bold red"}.get(row[-1])
        table.add_row(*row, style=style)
    Console().print(table)
