"""Bodies in processes of their own. They stand in the main program, so each process has to import it."""

from __future__ import annotations

import os
import subprocess
import time

from stepwell import App, Step, current_step
from tests.acceptance.programs import kit

app = App("far", database=kit.database(), processes=4)


def note(what: str, **fields: object) -> None:
    here = current_step()
    kit.write(what, execution=here.execution_id, path=here.path, attempt=here.attempt, **fields)


def act(seconds: float) -> int:
    note("begin")
    time.sleep(seconds)
    note("end")
    return os.getpid()


def spin() -> None:
    """Never ends, never listens, and has started a program of its own."""
    helper = subprocess.Popen(["sleep", "1000"])
    note("begin", helper=helper.pid)
    while True:
        pass


def spin_the_first_time() -> int:
    if kit.count("begin") < 2:
        spin()
    note("begin")
    note("end")
    return os.getpid()


def trigger_and_die_once() -> str:
    """A body that starts an execution; it runs twice."""
    here = current_step()
    id = short.trigger_sync(0.0).id
    note("begin", of=id)
    if here.attempt == 1:
        os._exit(1)
    return id


@app.workflow
async def triggering(step: Step) -> str:
    return await step.run("trigger", trigger_and_die_once, executor="process", retry_delay=0)


@app.workflow
async def short(step: Step, seconds: float) -> int:
    return await step.run("act", act, seconds, executor="process")


@app.workflow
async def spinning(step: Step) -> None:
    await step.run("spin", spin, executor="process")


@app.workflow
async def spinning_once(step: Step) -> int:
    return await step.run("spin", spin_the_first_time, executor="process", retries=0)


if __name__ == "__main__":
    kit.main(app, drain_timeout=float(os.environ.get("GRACE", "2")))
