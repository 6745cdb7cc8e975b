"""Somebody begins to work here: a mailbox, a badge and a laptop are procured side by side, each by a workflow of its own.

If there is no laptop left, one is lent. A survey is started that outlives the execution which started it.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stepwell import App, ChildFailedError, Step
from stepwell.errors import NonRetryableError

app = App("hiring")

FOLDER: Final = Path(__file__).resolve().parent / ".stepwell"


@dataclass(frozen=True)
class Person:
    """Who begins, and how long things take for her."""

    name: str
    delivery: str = "2 days"
    survey_after: str = "90 days"


@dataclass(frozen=True)
class Request:
    """One thing for one person."""

    person: Person
    thing: str


class OutOfStockError(NonRetryableError):
    """Nothing is left of it; asking again does not help."""


@app.workflow
async def onboarding(step: Step, person: Person) -> list[str]:
    """Give a new colleague all that she needs; gives a list of it."""
    await step.start_workflow("survey", survey, person, detached=True)
    mailbox, badge, laptop = await asyncio.gather(
        step.execute_workflow("mailbox", procurement, Request(person, "mailbox")),
        step.execute_workflow("badge", procurement, Request(person, "badge")),
        laptop_for(step, person),
    )
    await step.run("welcome", do, f"welcome {person.name}")
    return [mailbox, badge, laptop]


async def laptop_for(step: Step, person: Person) -> str:
    """A new laptop, or if that cannot be had, one that is lent."""
    try:
        return await step.execute_workflow("laptop", procurement, Request(person, "laptop"))
    except ChildFailedError:
        return await step.run("lend", do, f"lend a laptop to {person.name}")


@app.workflow
async def procurement(step: Step, request: Request) -> str:
    """Order one thing, wait for its delivery and hand it over."""
    await step.run("order", order, request)
    await step.sleep("delivery", request.person.delivery)
    return await step.run("hand-over", do, f"hand {request.thing} to {request.person.name}")


@app.workflow
async def survey(step: Step, person: Person) -> None:
    """Ask her how it went, much later."""
    await step.sleep("first-months", person.survey_after)
    await step.run("ask", do, f"ask {person.name} how it went")


# -------------------------------------------------------------------------------------- the world outside, as a file


def order(request: Request) -> str:
    """Order from the supplier, who has no laptops at the moment."""
    if request.thing == "laptop":
        raise OutOfStockError("no laptop is left")
    return do(f"order {request.thing} for {request.person.name}")


def do(deed: str) -> str:
    """Do it: append it to a file, and be sure that it is on disk."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "deeds.log").open("a") as log:
        log.write(f"{deed}\n")
        log.flush()
        os.fsync(log.fileno())
    return deed
