"""Other ways to use stepwell from a program: without an event loop, after a fork, two apps on one file."""

from __future__ import annotations

import json
from typing import Any

from tests.acceptance.harness import Site, check
from tests.acceptance.programs import remote


def output_of(site: Site, program: str, *arguments: str) -> dict[str, Any]:
    process = site.start(program, *arguments)
    assert process.wait(15) == 0, process.log
    assert process.log.startswith("{"), process.log
    return json.loads(process.log.splitlines()[0])


def test_a_script_without_an_event_loop_and_a_worker_elsewhere(site: Site) -> None:
    site.start_worker("remote")
    site.audit()

    saw = output_of(site, "script", "quiet")

    assert "changed my mind" in saw.pop("cancelled")
    assert "nobody" in saw.pop("not found")
    assert saw == {
        "total": 2,
        "status": "completed",
        "info": "from-script",
        "again": 2,
        "many": [1, 2, 3, 4, 5],
        "listed": 6,
        "failed": "ValueError",
        "timeout": True,
        "threads": list(range(1, 21)),
    }
    check(site, all_ended=False)


def test_execute_runs_an_execution_to_its_end(site: Site) -> None:
    saw = output_of(site, "execute")

    assert "inside an event loop" in saw.pop("inside")
    assert saw == {"first": 2, "second": 3, "failed": "ValueError", "sync afterwards": "quick"}
    assert site.value("SELECT COUNT(*) FROM workers") == 0


def test_execute_beside_a_worker_elsewhere(site: Site) -> None:
    site.start_worker("remote")
    site.audit()

    saw = output_of(site, "execute")

    assert (saw["first"], saw["second"]) == (2, 3)
    check(site)


def test_use_after_fork_is_refused_clearly(site: Site) -> None:
    saw = output_of(site, "forked", "with_worker")

    for what in ("trigger", "status", "cancel"):
        assert "fork" in saw[what], f"{what}: {saw[what]}"
    assert saw["parent"] == "4"


def test_blocking_use_after_fork_does_not_hang(site: Site) -> None:
    """As in a web server that loads the app, uses it and then forks its workers."""
    saw = output_of(site, "forked", "without_loop")

    assert "hangs" not in saw["sync"]
    assert "hangs" not in saw["sync trigger"]
    assert saw["parent sync"] in ("0", "1")


def test_two_apps_in_one_process_on_one_file(site: Site) -> None:
    saw = output_of(site, "two_apps")

    assert "open already" in saw.pop("twice")
    assert "open already" in saw.pop("connected too")
    assert saw == {
        "ones": sum(range(50)),
        "twos": sum(range(50)),
        "shared": 100,
        "sharers": ["one", "two"],
        "seen by the other": 50,
        "still works": 7,
        "of the app that left": "queued",
        "left one still works": 8,
        "reopened": 9,
    }


def test_a_client_of_an_app_opened_anew_sees_what_was_there(site: Site) -> None:
    async def trigger() -> str:
        return (await remote.quick.trigger(remote.Order("o", 1))).id

    async def status() -> str:
        return await remote.quick.get_execution(id).status()

    id = site.prepare(remote.app, trigger)

    assert site.as_client(remote.app, status) == "queued"
