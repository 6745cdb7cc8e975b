"""Bodies on a local Dask cluster, through `client.get_executor()`. Prints what came out as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from stepwell import App, NoStepContextError, RetryPolicy, Step, StepTimeoutError
from tests.engine import far

app = App("dask", database="sqlite://")


@app.workflow
async def flow(step: Step, folder: str) -> dict[str, Any]:
    executor = clients[0].get_executor()
    found: dict[str, Any] = {}
    found["elsewhere"] = await step.run("pid", far.pid, executor=executor) != os.getpid()
    found["async"] = await step.run("async", far.async_pid, executor=executor) != os.getpid()
    found["parallel"] = await asyncio.gather(
        *(step.run(f"add-{n}", far.add, n, n, executor=executor) for n in range(20))
    )
    # Dask takes calls of the same function with the same arguments for one, unless it is told otherwise.
    again = RetryPolicy(retries=2, delay=0)
    found["retried"] = await step.run("retried", far.fail_once, folder, executor=executor, retries=again)
    for name in ("same-1", "same-2"):
        await step.run(name, far.mark, folder, executor=executor)
    found["marks"] = len(list(Path(folder).iterdir()))
    try:
        await step.run("error", far.value_error, executor=executor, retries=0)
    except ValueError as error:
        found["error"] = str(error)
    try:
        await step.run("context", far.no_context, executor=executor)
    except NoStepContextError as error:
        found["context"] = type(error).__name__
    try:
        await step.run("slow", far.wait_for, folder, "go", executor=executor, timeout=0.3, retries=0)
    except StepTimeoutError as error:
        found["timeout"] = str(error)
    (Path(folder) / "go").touch()
    found["after"] = await step.run("after", far.add, 1, 2, executor=executor)
    return found


clients: list[Any] = []

if __name__ == "__main__":
    make: Any = LocalCluster
    cluster = make(n_workers=1, threads_per_worker=2, dashboard_address=None, host="127.0.0.1")
    with cluster, Client(cluster) as client:
        clients.append(client)
        sys.stdout.write(json.dumps(app.execute(flow, sys.argv[1])))
