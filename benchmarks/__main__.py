"""`python -m benchmarks`: run workloads, print what they measured beside the targets."""

from __future__ import annotations

import json
import logging
import os
import platform
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final

import click

from benchmarks import contention, latency, recovery, report, sleepers, startup, storage, streams, throughput, waking
from benchmarks.measure import Figure, Plan

WORKLOADS: Final[dict[str, Callable[[Plan], list[Figure]]]] = {
    "floor": throughput.floor_alone,
    "async-steps": throughput.async_steps,
    "sync-steps": throughput.sync_steps,
    "sequential": throughput.sequential,
    "fan-out": throughput.fan_out,
    "map": throughput.mapping,
    "starts": throughput.starts,
    "emit": streams.emit,
    "trigger": latency.trigger_here,
    "trigger-remote": latency.trigger_there,
    "events": waking.events_here,
    "events-remote": waking.events_there,
    "listeners": waking.listeners,
    "children": waking.children,
    "recovery": recovery.recovery,
    "replay": recovery.replay,
    "sleepers": sleepers.sleepers,
    "resident": sleepers.resident,
    "contention": contention.contention,
    "lists": storage.lists,
    "idle": startup.idle,
    "startup": startup.startup,
}


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="Run this workload only; several are allowed.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--rounds", type=click.IntRange(1), help="How often each is measured (default 5).")
@click.option("--scale", type=click.FloatRange(min=0, min_open=True), help="A factor for all sizes (default 1).")
@click.option("--quick", is_flag=True, help="One round at a small scale: whether it works, not how fast.")
@click.option("--json", "json_file", metavar="FILE", help="Write the figures too; - for stdout.")
@click.option("--list", "listing", is_flag=True, help="List the workloads.")
def main(
    only: tuple[str, ...],
    names: tuple[str, ...],
    rounds: int | None,
    scale: float | None,
    quick: bool,
    json_file: str | None,
    listing: bool,
) -> None:
    """Measure stepwell against its floor and its targets (all workloads, or those NAMEd)."""
    if listing:
        for name, workload in WORKLOADS.items():
            click.echo(f"{name:16}{(workload.__doc__ or '').splitlines()[0]}")
        return
    chosen = (*only, *names) or tuple(WORKLOADS)
    for name in chosen:
        if name not in WORKLOADS:
            raise click.UsageError(f"There is no workload {name!r}. There are: {', '.join(WORKLOADS)}.")
    usual = Plan(rounds=1, scale=0.02, seconds=0.5) if quick else Plan()
    plan = Plan(rounds=rounds or usual.rounds, scale=scale or usual.scale, seconds=usual.seconds)
    logging.getLogger("stepwell").setLevel(logging.ERROR)  # deaths are part of the exercise
    results: dict[str, list[Figure]] = {}
    broken: list[str] = []
    for name in chosen:
        began = time.perf_counter()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        try:
            results[name] = WORKLOADS[name](plan)
        except Exception:
            broken.append(name)
            print("failed", file=sys.stderr)
            traceback.print_exc()
        else:
            print(f"{time.perf_counter() - began:.1f} s", file=sys.stderr)
    if json_file != "-":
        report.show(results, reduced=plan.scale < 1)
    if json_file is not None:
        figures = {**_machine(), "workloads": _plain(results), "failed": broken}
        with click.open_file(json_file, "w") as file:
            json.dump(figures, file, indent=2)
            file.write("\n")
    if broken:
        sys.exit(f"Failed: {', '.join(broken)}")


def _plain(results: dict[str, list[Figure]]) -> dict[str, list[dict[str, object]]]:
    return {
        name: [
            {
                "what": figure.what,
                "unit": figure.unit,
                "median": figure.median,
                "values": figure.values,
                "at_least": figure.at_least,
                "at_most": figure.at_most,
                "ok": figure.ok,
                "note": figure.note,
            }
            for figure in figures
        ]
        for name, figures in results.items()
    }


def _machine() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
