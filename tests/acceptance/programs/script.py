"""A plain script: no event loop anywhere, a worker elsewhere. Prints what it saw as JSON."""

from __future__ import annotations

import json
import sys
import threading

from stepwell import ExecutionCancelledError, ExecutionFailedError, ExecutionNotFoundError
from tests.acceptance.programs import kit, remote
from tests.acceptance.programs.remote import Order


def main() -> None:
    saw: dict[str, object] = {}
    execution = remote.quick.trigger_sync(Order("o", 1), id="from-script")
    saw["total"] = execution.result_sync(10).total
    saw["status"] = execution.status_sync()
    saw["info"] = execution.info_sync().id
    saw["again"] = remote.quick.get_execution_sync("from-script").result_sync(5).total
    saw["many"] = [
        each.result_sync(10).total for each in remote.quick.trigger_many_sync([Order("o", n) for n in range(5)])
    ]
    saw["listed"] = len(remote.quick.list_executions_sync(status="completed").executions)

    sleeper = remote.sleeper.trigger_sync(60)
    remote.sleeper.cancel_sync(sleeper.id, "changed my mind")
    try:
        sleeper.result_sync(5)
    except ExecutionCancelledError as error:
        saw["cancelled"] = str(error)
    try:
        remote.failing.trigger_sync().result_sync(5)
    except ExecutionFailedError as error:
        saw["failed"] = type(error.__cause__).__name__
    try:
        remote.sleeper.trigger_sync(60, id="too-long").result_sync("0.2 seconds")
    except TimeoutError:
        saw["timeout"] = True
    try:
        remote.quick.get_execution_sync("nobody").status_sync()
    except ExecutionNotFoundError as error:
        saw["not found"] = str(error)

    totals: list[int] = []

    def trigger(number: int) -> None:
        totals.append(remote.quick.trigger_sync(Order("t", number)).result_sync(10).total)

    threads = [threading.Thread(target=trigger, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    saw["threads"] = sorted(totals)
    json.dump(saw, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1:] != ["quiet"]:
        kit.prepare()
    main()
