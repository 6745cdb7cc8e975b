"""Two versions of a workflow: in the new one a step of the same name is of another kind."""

from __future__ import annotations

import os

from stepwell import App, Step
from stepwell._engine import runner
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act, seen

app = App("versions", database=kit.database())

if pause := os.environ.get("MISMATCH_PAUSE"):
    runner.MISMATCH_PAUSE_US = int(float(pause) * 1_000_000)


async def old(step: Step) -> int:
    first = await seen("first", step.run("first", act))
    second = await seen("second", step.run("second", act))
    await step.sleep("gate", float(os.environ.get("GATE", "30")))
    return first + second + await seen("third", step.run("third", act))


async def new(step: Step) -> int:
    first = await seen("first", step.run("first", act))
    await step.run("added", act)  # a new step is fine
    await step.sleep("second", 0.1)  # another kind under an old name is not
    return first + await seen("third", step.run("third", act))


app.workflow(name="changing")(new if os.environ.get("CODE") == "new" else old)
changing = app.workflows["changing"]


@app.workflow
async def steady(step: Step) -> int:
    return await step.run("only", act)


if __name__ == "__main__":
    kit.main(app)
