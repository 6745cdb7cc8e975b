"""Code that does not fit what is recorded stops before any body runs; the old code can still finish."""

from __future__ import annotations

from stepwell import ExecutionInfo
from tests.acceptance.harness import Process, Site, check
from tests.acceptance.programs import versions


def interrupted(site: Site) -> None:
    """The old code has recorded two steps, and dies."""

    async def fill() -> None:
        await versions.changing.trigger(id="c")

    site.prepare(versions.app, fill)
    worker = site.start_worker("versions", GATE=1.5)
    site.until(lambda: site.counts().get("sleeping"), "it to sleep")
    worker.kill()


def refused(site: Site, **environment: object) -> tuple[Process, ExecutionInfo]:
    """The new code has met the execution; what people see of it then."""
    newer = site.start_worker("versions", CODE="new", **environment)
    site.until(lambda: "ReplayMismatchError" in newer.log or "second" in newer.log, "the new code to refuse")
    site.until(lambda: site.counts().get("queued"), "it to go back to the queue")
    return newer, info(site)


def info(site: Site) -> ExecutionInfo:
    async def ask() -> ExecutionInfo:
        return await versions.changing.get_execution("c").info()

    return site.as_client(versions.app, ask)


def test_the_reason_is_shown_and_old_code_finishes(site: Site) -> None:
    interrupted(site)
    newer, seen = refused(site, MISMATCH_PAUSE=1.0)

    assert seen.status == "queued"
    assert seen.waiting_for is not None
    assert "second" in seen.waiting_for
    assert not site.lines("begin", "c", "third")
    newer.kill()
    site.start_worker("versions", GATE=1.5)
    site.await_all_ended()

    assert site.counts() == {"completed": 1}
    assert site.value("SELECT MAX(crashes) FROM test_executions") <= 1, "not fitting is no crash"
    assert len(site.lines("begin", "c", "second")) == 1
    check(site)


def test_new_and_old_code_side_by_side(site: Site) -> None:
    """In a rolling deploy both live: the execution is tried by either until the one that fits has it."""
    interrupted(site)
    refused(site, MISMATCH_PAUSE=0.3)
    site.start_worker("versions", GATE=1.5)

    site.await_all_ended(15)

    assert site.counts() == {"completed": 1}
    check(site)


def test_others_are_executed_meanwhile(site: Site) -> None:
    interrupted(site)
    refused(site)

    async def other() -> int:
        return await (await versions.steady.trigger()).result(5)

    assert isinstance(site.as_client(versions.app, other), int)
    assert info(site).status == "queued"


def test_an_execution_that_does_not_fit_can_be_cancelled(site: Site) -> None:
    interrupted(site)
    refused(site)

    async def cancel() -> None:
        await versions.changing.get_execution("c").cancel()

    site.as_client(versions.app, cancel)

    assert site.counts() == {"cancelled": 1}
    check(site)
