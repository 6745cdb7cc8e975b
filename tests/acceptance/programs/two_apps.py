"""Two apps in one process on one file: they share nothing but the file. Prints what it saw as JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from stepwell import App, ConfigError, Step
from tests.acceptance.programs import kit
from tests.acceptance.programs.kit import act

one = App("one", database=kit.database())
two = App("two", database=kit.database())


@one.workflow
async def of_one(step: Step, number: int) -> int:
    await step.run("only", act)
    return number


@two.workflow
async def of_two(step: Step, number: int) -> int:
    await step.run("only", act)
    return number


@one.workflow(name="shared")
async def shared_in_one(step: Step, number: int) -> str:
    await step.run("only", act, 0.02)
    return "one"


@two.workflow(name="shared")
async def shared_in_two(step: Step, number: int) -> str:
    await step.run("only", act, 0.02)
    return "two"


async def main() -> None:
    saw: dict[str, object] = {}
    async with one.running(concurrency=20):
        async with two.running(concurrency=20):
            ones = [await of_one.trigger(n) for n in range(50)]
            twos = [await of_two.trigger(n) for n in range(50)]
            saw["ones"] = sum([await each.result(10) for each in ones])
            saw["twos"] = sum([await each.result(10) for each in twos])
            shared = await shared_in_one.trigger_many(range(100))
            outputs = [await each.result(10) for each in shared]
            saw["shared"] = len(outputs)
            saw["sharers"] = sorted(set(outputs))
            seen_by_other = await two.list_executions(workflow="of_one", limit=100)
            saw["seen by the other"] = len(seen_by_other.executions)
            try:
                async with one.running():
                    saw["twice"] = "no error"
            except ConfigError as error:
                saw["twice"] = str(error)
            try:
                async with one.connected():
                    saw["connected too"] = "no error"
            except ConfigError as error:
                saw["connected too"] = str(error)
            still = await of_one.trigger(7)
            saw["still works"] = await still.result(5)
        left = await of_two_queued()
        saw["left one still works"] = await (await of_one.trigger(8)).result(5)
        saw["of the app that left"] = left
    async with one.running():
        saw["reopened"] = await (await of_one.trigger(9)).result(5)
    json.dump(saw, sys.stdout)


async def of_two_queued() -> str:
    """Triggered while nobody knows the workflow: it waits."""
    async with two.connected():
        execution = await of_two.trigger(1, id="waits")
        await asyncio.sleep(0.2)
        return await execution.status()


if __name__ == "__main__":
    asyncio.run(main())
