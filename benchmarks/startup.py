"""What stepwell costs before it does anything: importing it, asking for help, an idle worker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks.child import Channel
from benchmarks.measure import ROOT, Child, Figure, Plan, scratch, settled, url
from stepwell import App, Step

_STARTS: Final = 10
_IMPORT: Final = "import time; t = time.perf_counter(); import stepwell; print(time.perf_counter() - t)"


def startup(plan: Plan) -> list[Figure]:
    """`import stepwell` and `stepwell --help`, each in 10 new processes."""
    starts = range(plan.size(_STARTS, least=2))
    bare = [_wall([sys.executable, "-c", ""])[0] for _ in starts]
    imports = [float(_wall([sys.executable, "-c", _IMPORT])[1]) * 1000 for _ in starts]
    figures = [
        Figure("a bare interpreter, start to end", "ms", bare),
        Figure("import stepwell", "ms", imports, at_most=120),
    ]
    program = Path(sys.executable).with_name("stepwell")
    if program.exists():
        helps = [_wall([str(program), "--help"])[0] for _ in starts]
        figures.append(Figure("stepwell --help, start to end", "ms", helps, at_most=150))
    else:
        print(f"{program} is not installed: stepwell --help is not measured.", file=sys.stderr)
    return figures


def idle(plan: Plan) -> list[Figure]:
    """A worker with nothing to do: processor time of all its threads."""
    shares: list[float] = []
    for _ in plan.few(3):
        with (
            scratch() as folder,
            Child("startup:do_nothing", path=str(folder / "bench.db"), seconds=plan.seconds) as child,
        ):
            shares.append(child.hear() * 100)
    return [Figure("idle worker", "% of a core", shares, at_most=0.5)]


async def do_nothing(channel: Channel, path: str, seconds: float) -> None:
    """The idle worker: tells its share of a core."""
    app = App("bench", database=url(Path(path)))

    @app.workflow
    async def work(step: Step) -> None: ...

    async with app.running() as worker:
        await settled(worker)
        await (await work.trigger()).result()
        await asyncio.sleep(min(seconds, 1.0))
        began, used = time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        channel.say((time.process_time() - used) / (time.monotonic() - began))


def _wall(command: list[str]) -> tuple[float, str]:
    """Milliseconds from start to end, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return (time.perf_counter() - began) * 1000, done.stdout
