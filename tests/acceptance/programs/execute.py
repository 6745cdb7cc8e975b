"""`app.execute` in a plain script, twice, with a worker elsewhere or none. Prints what it saw as JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from stepwell import ExecutionFailedError, WorkflowCodeError
from tests.acceptance.programs import remote
from tests.acceptance.programs.remote import Order


async def inside() -> str:
    try:
        remote.app.execute(remote.quick, Order("inside", 1))
    except WorkflowCodeError as error:
        return str(error)
    return "no error"


def main() -> None:
    saw: dict[str, object] = {}
    saw["first"] = remote.app.execute(remote.quick, Order("e", 1)).total
    saw["second"] = remote.app.execute(remote.quick, Order("e", 2)).total
    try:
        remote.app.execute(remote.failing)
    except ExecutionFailedError as error:
        saw["failed"] = type(error.__cause__).__name__
    saw["inside"] = asyncio.run(inside())
    saw["sync afterwards"] = remote.quick.list_executions_sync().executions[0].workflow
    json.dump(saw, sys.stdout)


if __name__ == "__main__":
    main()
