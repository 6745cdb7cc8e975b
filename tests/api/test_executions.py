"""Looking at executions: handles, snapshots, lists, watching."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from stepwell import (
    App,
    Execution,
    ExecutionCancelledError,
    ExecutionFailedError,
    ExecutionInfo,
    ExecutionNotFoundError,
    InvalidInputError,
    InvalidTransitionError,
    Step,
    StepInfo,
    Workflow,
)
from stepwell.testing import Tester, sandbox
from tests.api.conftest import START, Order, open_client

pytestmark = pytest.mark.anyio

STATUSES = ("queued", "running", "sleeping", "completed", "failed", "cancelled")
ENDED = ("completed", "failed", "cancelled")


class Shop(NamedTuple):
    """An app with one execution of each status, its id the status. Before the clock moves on, `release` must be set."""

    app: App
    flow: Workflow[str, Order]
    tester: Tester
    release: asyncio.Event

    def execution(self, status: str) -> Execution[Order]:
        return self.flow.get_execution(status)


@asynccontextmanager
async def open_shop() -> AsyncGenerator[Shop]:
    app, started, release = App("shop"), asyncio.Event(), asyncio.Event()

    async def charge(status: str) -> Order:
        if status == "running":
            started.set()
            await release.wait()
        if status == "failed":
            raise ValueError("card declined")
        return Order(status, 5)

    @app.workflow(version="2024-01", tags=["shop"])
    async def flow(step: Step, status: str) -> Order:
        order = await step.run("charge", charge, status, retries=1, retry_delay=1)
        if status in ("sleeping", "cancelled"):
            await step.sleep("nap", "1 hour")
        return order

    async with sandbox(app) as tester:
        for status in set(STATUSES) - {"running"}:
            await flow.trigger(status, id=status, delay="1 day" if status == "queued" else None, priority=7)
        await tester.advance("2 seconds")
        await flow.cancel("cancelled", "customer called")
        await flow.trigger("running", id="running", priority=7)
        await started.wait()
        yield Shop(app, flow, tester, release)
        release.set()


# ------------------------------------------------------------------------------------------------- one execution


@pytest.mark.parametrize("status", STATUSES)
async def test_status_info_and_lists_agree(status: str) -> None:
    async with open_shop() as shop:
        info = await shop.execution(status).info()
        [listed] = (await shop.flow.list_executions(status=info.status)).executions

        assert info.status == await shop.execution(status).status() == listed.status == status
        assert info.is_terminal == (status in ENDED)
        assert (listed.id, listed.input, listed.output) == (status, None, None)


@pytest.mark.parametrize("status", STATUSES)
async def test_info_has_everything(status: str) -> None:
    async with open_shop() as shop:
        info = await shop.execution(status).info()

    assert (info.id, info.workflow, info.input, info.run_number) == (status, "flow", status, 1)
    assert (info.version, info.tags, info.parent_id, info.priority) == ("2024-01", ("shop",), None, 7)
    assert info.created_at == (START + timedelta(seconds=2) if status == "running" else START)
    assert info.started_at == (None if status == "queued" else info.created_at)
    assert (info.finished_at is not None) == (status in ENDED)
    assert info.output == (Order("completed", 5) if status == "completed" else None)
    assert (info.error is not None) == (status == "failed")
    assert info.reason == ("customer called" if status == "cancelled" else None)
    wake_at = {"queued": START + timedelta(days=1), "sleeping": START + timedelta(hours=1)}
    assert info.wake_at == wake_at.get(status)
    assert info.waiting_for == ("nap" if status == "sleeping" else None)


async def test_the_error_of_a_failed_execution_has_type_message_and_traceback() -> None:
    async with open_shop() as shop:
        error = (await shop.execution("failed").info()).error

    assert error is not None
    assert error.type.endswith("ValueError")
    assert error.message == "card declined"
    assert 'raise ValueError("card declined")' in error.traceback


@pytest.mark.parametrize("status", STATUSES)
async def test_snapshots_are_ready_for_json(status: str) -> None:
    async with open_shop() as shop:
        execution = shop.execution(status)
        dictionaries = [(await execution.info()).to_dict(), *(step.to_dict() for step in await execution.steps())]

    assert all(json.loads(json.dumps(one, allow_nan=False)) == one for one in dictionaries)
    assert datetime.fromisoformat(dictionaries[0]["created_at"]).tzinfo == UTC


async def test_result_of_a_completed_execution_has_its_type() -> None:
    async with open_shop() as shop:
        assert await shop.execution("completed").result() == Order("completed", 5)


async def test_result_waits_for_the_end() -> None:
    async with open_shop() as shop:
        waiting = [asyncio.create_task(shop.execution("running").result()) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        shop.release.set()

        assert await asyncio.gather(*waiting) == [Order("running", 5)] * 3


@pytest.mark.parametrize("status", ["queued", "running", "sleeping"])
async def test_result_gives_up_after_its_timeout_and_leaves_the_execution_alone(status: str) -> None:
    async with open_shop() as shop:
        with pytest.raises(TimeoutError, match=rf"Execution '{status}' has not ended within 0.01 s"):
            await shop.execution(status).result(timeout="10 ms")

        assert await shop.execution(status).status() == status


async def test_result_of_an_ended_execution_needs_no_time() -> None:
    async with open_shop() as shop:
        assert await shop.execution("completed").result(timeout=0) == Order("completed", 5)


@pytest.mark.parametrize("timeout", [-1, "soon", True])
async def test_bad_timeouts_of_result_are_refused(timeout: Any) -> None:
    async with open_shop() as shop:
        with pytest.raises(InvalidInputError, match=r"^timeout must "):
            await shop.execution("running").result(timeout)


async def test_result_of_a_failed_execution_raises_with_the_error_as_its_cause() -> None:
    async with open_shop() as shop:
        with pytest.raises(
            ExecutionFailedError, match=r"Execution 'failed' failed with .*ValueError: card declined"
        ) as failed:
            await shop.execution("failed").result()

    assert isinstance(failed.value.__cause__, ValueError)
    assert failed.value.__cause__.args == ("card declined",)
    assert failed.value.execution_id == "failed"
    assert failed.value.error_message == "card declined"
    assert "card declined" in failed.value.error_traceback


async def test_result_of_a_cancelled_execution_raises_with_the_reason() -> None:
    async with open_shop() as shop:
        with pytest.raises(ExecutionCancelledError, match="'cancelled' was cancelled: customer called") as cancelled:
            await shop.execution("cancelled").result()

    assert cancelled.value.reason == "customer called"


async def test_waiting_for_the_result_ends_with_the_cancel() -> None:
    async with open_shop() as shop:
        waiting = asyncio.create_task(shop.execution("sleeping").result())
        await asyncio.sleep(0)
        await shop.execution("sleeping").cancel()

        with pytest.raises(ExecutionCancelledError):
            await waiting


async def test_steps_say_what_happened() -> None:
    async with open_shop() as shop:
        charge, nap = await shop.execution("sleeping").steps()
        [failed] = await shop.execution("failed").steps()
        steps_of_queued = await shop.execution("queued").steps()

    assert (charge.path, charge.name, charge.kind, charge.status, charge.attempt) == (
        "charge",
        "charge",
        "run",
        "completed",
        1,
    )
    assert (charge.output, charge.error, charge.attempts) == ({"id": "sleeping", "total": 5}, None, ())
    assert (charge.started_at, charge.finished_at) == (START, START)
    assert (nap.kind, nap.status, nap.wake_at) == ("sleep", "sleeping", START + timedelta(hours=1))
    assert (failed.status, failed.attempt, failed.output) == ("failed", 2, None)
    assert failed.error is not None
    assert failed.error.message == "card declined"
    assert [(attempt.attempt, attempt.error.message) for attempt in failed.attempts][:1] == [(1, "card declined")]
    assert failed.attempts[0].worker
    assert steps_of_queued == []


async def test_a_long_body_is_shown_as_running() -> None:
    app, release = App(), asyncio.Event()

    @app.workflow
    async def flow(step: Step) -> None:
        await step.run("work", release.wait)

    app.use_database("sqlite://")
    async with app.running():
        execution, steps = await flow.trigger(), list[StepInfo]()
        async with asyncio.timeout(5):
            async for _ in execution.watch():
                if steps := await execution.steps():
                    break
        release.set()
        await execution.result()

    assert steps
    assert (steps[0].path, steps[0].status, steps[0].finished_at) == ("work", "running", None)


@pytest.mark.parametrize("method", ["status", "info", "result", "steps", "cancel"])
async def test_an_unknown_id_raises_when_the_handle_is_used(method: str) -> None:
    async with open_shop() as shop:
        execution = shop.flow.get_execution("nobody")
        with pytest.raises(
            ExecutionNotFoundError, match="Execution 'nobody' does not exist in this database"
        ) as unknown:
            await getattr(execution, method)()

    assert unknown.value.execution_id == "nobody"


async def test_watching_an_unknown_id_raises() -> None:
    async with open_shop() as shop:
        with pytest.raises(ExecutionNotFoundError):
            await anext(aiter(shop.flow.get_execution("nobody").watch()))


async def test_a_handle_refuses_what_cannot_be_an_id() -> None:
    async with open_shop() as shop:
        with pytest.raises(InvalidInputError, match="id must be"):
            shop.flow.get_execution("no body")
        with pytest.raises(InvalidInputError, match="id must be"):
            shop.app.get_execution("")


async def test_handles_with_one_id_are_equal() -> None:
    async with open_shop() as shop:
        one, same, other = (shop.flow.get_execution(id) for id in ("a", "a", "b"))

        assert one == same != other
        assert len({one, same, other}) == 2
        assert repr(one) == "Execution('a')"


async def test_a_handle_of_the_app_gives_plain_json() -> None:
    async with open_shop() as shop:
        assert await shop.app.get_execution("completed").result() == {"id": "completed", "total": 5}


# ------------------------------------------------------------------------------------------------- cancelling


@pytest.mark.parametrize("status", ["queued", "running", "sleeping"])
async def test_cancelling_ends_at_once(status: str) -> None:
    async with open_shop() as shop:
        await shop.execution(status).cancel("enough")
        info = await shop.execution(status).info()
        shop.release.set()
        await shop.tester.advance("2 days")

        assert (info.status, info.reason, info.wake_at) == ("cancelled", "enough", None)
        assert await shop.execution(status).info() == info


async def test_cancelling_again_does_nothing() -> None:
    async with open_shop() as shop:
        before = await shop.execution("cancelled").info()
        await shop.execution("cancelled").cancel("another reason")

        assert await shop.execution("cancelled").info() == before


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_what_has_ended_otherwise_cannot_be_cancelled(status: str) -> None:
    async with open_shop() as shop:
        with pytest.raises(
            InvalidTransitionError, match=f"Cannot cancel execution '{status}': it is {status}"
        ) as refused:
            await shop.execution(status).cancel()

        assert (refused.value.action, refused.value.status) == ("cancel", status)
        assert await shop.execution(status).status() == status


# ------------------------------------------------------------------------------------------------- finding


async def test_latest_is_the_newest() -> None:
    async with open_shop() as shop:
        shop.release.set()
        await shop.tester.advance("1 second")
        newest = await shop.flow.trigger("completed")

        assert await shop.app.find_execution("latest") == newest


@pytest.mark.parametrize("status", STATUSES)
async def test_latest_with_a_status_is_the_newest_that_has_it(status: str) -> None:
    async with open_shop() as shop:
        assert (await shop.app.find_execution(f"latest:{status}")).id == status


async def test_latest_with_an_unknown_status_names_the_known_ones() -> None:
    async with open_shop() as shop:
        with pytest.raises(InvalidInputError, match=r"status must be one of queued, .*, got 'done'"):
            await shop.app.find_execution("latest:done")


async def test_a_beginning_of_one_id_finds_it() -> None:
    async with open_shop() as shop:
        assert (await shop.app.find_execution("fail")).id == "failed"
        assert (await shop.app.find_execution("failed")).id == "failed"


async def test_a_whole_id_wins_over_longer_ones() -> None:
    async with open_shop() as shop:
        await shop.flow.trigger("completed", id="failed-again")

        assert (await shop.app.find_execution("failed")).id == "failed"


async def test_a_beginning_of_several_ids_is_ambiguous() -> None:
    async with open_shop() as shop:
        with pytest.raises(InvalidInputError, match="'c' begins more than one id: ") as ambiguous:
            await shop.app.find_execution("c")

    assert "completed" in str(ambiguous.value)
    assert "cancelled" in str(ambiguous.value)


@pytest.mark.parametrize("text", ["nobody", "latest:listening", "completed_"])
async def test_nothing_found_raises(text: str) -> None:
    async with open_shop() as shop:
        with pytest.raises(ExecutionNotFoundError, match=text.removeprefix("latest:")):
            await shop.app.find_execution(text)


@pytest.mark.parametrize("text", ["", "no body", "%"])
async def test_what_cannot_begin_an_id_is_refused(text: str) -> None:
    async with open_shop() as shop:
        with pytest.raises((InvalidInputError, ExecutionNotFoundError)):
            await shop.app.find_execution(text)


async def test_latest_of_an_empty_database_is_not_found() -> None:
    app = App()

    async with open_client(app):
        with pytest.raises(ExecutionNotFoundError):
            await app.find_execution("latest")


# ------------------------------------------------------------------------------------------------- lists


async def ids(app: App, **filters: Any) -> set[str]:
    return {info.id for info in (await app.list_executions(**filters)).executions}


async def test_lists_are_filtered_by_all_that_is_given() -> None:
    async with open_shop() as shop:

        @shop.app.workflow
        async def other(step: Step) -> None: ...

        await other.trigger(id="o-1", tags=["vip", "eu"])
        await other.trigger(id="o-2", tags=["eu"])

        app = shop.app
        assert await ids(app) == {*STATUSES, "o-1", "o-2"}
        assert await ids(app, workflow="other") == {"o-1", "o-2"}
        assert await ids(app, workflow="unknown") == set()
        assert await ids(app, status="sleeping") == {"sleeping"}
        assert await ids(app, status=["failed", "cancelled"]) == {"failed", "cancelled"}
        assert await ids(app, tags=["eu"]) == {"o-1", "o-2"}
        assert await ids(app, tags=["eu", "vip"]) == {"o-1"}
        assert await ids(app, id_prefix="o-") == {"o-1", "o-2"}
        assert await ids(app, workflow="flow", status="completed", tags=["shop"], id_prefix="c") == {"completed"}
        assert await ids(app, workflow="flow", tags=["eu"]) == set()


async def test_lists_are_newest_first() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with sandbox(app) as tester:
        made: list[str] = []
        for _ in range(5):
            made.append((await flow.trigger()).id)
            await tester.advance(1)

        assert [info.id for info in (await flow.list_executions()).executions] == made[::-1]


async def test_since_takes_a_time_or_how_long_ago() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with sandbox(app) as tester:
        for id in ("old", "new"):
            await flow.trigger(id=id)
            await tester.advance("1 hour")

        assert await ids(app, since="90 minutes") == {"new"}
        assert await ids(app, since=timedelta(hours=3)) == {"old", "new"}
        assert await ids(app, since=START + timedelta(hours=1)) == {"new"}
        assert await ids(app, since=START) == {"old", "new"}
        assert await ids(app, since=datetime(2040, 1, 1, tzinfo=UTC)) == set()


@pytest.mark.parametrize("since", [datetime(2030, 1, 1), "yesterday", -5])
async def test_bad_since_is_refused(since: Any) -> None:
    app = App()

    async with open_client(app):
        with pytest.raises(InvalidInputError):
            await app.list_executions(since=since)


@pytest.mark.parametrize("limit", [0, -1, 1001, True, 1.5, "5", None])
async def test_limits_are_1_to_1000(limit: Any) -> None:
    app = App()

    async with open_client(app):
        with pytest.raises(InvalidInputError, match=f"limit must be 1 to 1000, got {limit!r}"):
            await app.list_executions(limit=limit)
        await app.list_executions(limit=1)
        await app.list_executions(limit=1000)


@pytest.mark.parametrize("status", ["done", ["failed", "done"], "", [5]])
async def test_unknown_statuses_are_refused(status: Any) -> None:
    app = App()

    async with open_client(app):
        with pytest.raises(InvalidInputError, match="status must be one of queued, running"):
            await app.list_executions(status=status)


@pytest.mark.parametrize("tags", ["vip", [5]])
async def test_tags_of_a_filter_must_be_a_list_of_texts(tags: Any) -> None:
    app = App()

    async with open_client(app):
        with pytest.raises(InvalidInputError, match="tag"):
            await app.list_executions(tags=tags)


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "MSw=", "ä", "MSwhIQ", "a" * 10_000])
async def test_cursors_that_are_none_are_refused(cursor: str) -> None:
    app = App()

    async with open_client(app):
        with pytest.raises(InvalidInputError, match="cursor must be the next_cursor of the page before"):
            await app.list_executions(cursor=cursor)


@pytest.mark.parametrize(
    "filters", [{}, {"workflow": "flow"}, {"status": "queued"}, {"tags": ["t"]}, {"id_prefix": "e"}]
)
async def test_paging_gives_each_execution_once_while_new_ones_are_added(filters: dict[str, Any]) -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        for start in range(0, 250, 50):
            numbers = range(start, start + 50)
            await flow.trigger_many([None] * 50, ids=[f"e-{number}" for number in numbers], tags=["t"])
        seen: list[str] = []
        cursor = None
        while True:
            page = await app.list_executions(limit=17, cursor=cursor, **filters)
            seen += [info.id for info in page.executions]
            await flow.trigger(id=f"e-new-{len(seen)}", tags=["t"])
            if (cursor := page.next_cursor) is None:
                break

    assert sorted(seen) == sorted(f"e-{number}" for number in range(250))


async def test_the_last_page_says_so() -> None:
    app = App()

    @app.workflow
    async def flow(step: Step) -> None: ...

    async with open_client(app):
        assert (await app.list_executions()).next_cursor is None
        await flow.trigger_many([None] * 4)
        first = await app.list_executions(limit=2)
        second = await app.list_executions(limit=2, cursor=first.next_cursor)

        assert first.next_cursor is not None
        assert (len(second.executions), second.next_cursor) == (2, None)


# ------------------------------------------------------------------------------------------------- watching


async def watched(execution: Execution[Any]) -> list[ExecutionInfo]:
    return [info async for info in execution.watch()]


@pytest.mark.parametrize("status", ENDED)
async def test_watching_what_has_ended_gives_one_snapshot(status: str) -> None:
    async with open_shop() as shop:
        async with asyncio.timeout(5):
            assert [info.status for info in await watched(shop.execution(status))] == [status]


@pytest.mark.parametrize("status", ["queued", "running", "sleeping"])
async def test_watching_gives_the_first_snapshot_at_once(status: str) -> None:
    async with open_shop() as shop:
        async with asyncio.timeout(1):
            async for info in shop.execution(status).watch():
                assert info == await shop.execution(status).info()
                break


async def test_watching_gives_a_snapshot_after_every_change_and_ends_with_the_execution() -> None:
    async with open_shop() as shop:
        shop.release.set()
        watching = asyncio.create_task(watched(shop.execution("queued")))
        await shop.tester.settle()
        await shop.tester.advance("1 day")
        async with asyncio.timeout(5):
            seen = [info.status for info in await watching]

    assert seen[0] == "queued"
    assert seen[-1] == "completed"
    assert seen.count("completed") == 1


async def test_watching_sees_steps_change() -> None:
    app, gates = App(), [asyncio.Event() for _ in range(3)]

    @app.workflow
    async def flow(step: Step) -> None:
        for number, gate in enumerate(gates):
            await step.run(f"wait-{number}", gate.wait)

    async with sandbox(app):
        execution = await flow.trigger()
        counts: list[int] = []
        async with asyncio.timeout(10):
            async for info in execution.watch():
                counts.append(len(await execution.steps()))
                if not info.is_terminal:
                    gates[counts[-1]].set()

    assert counts == [0, 1, 2, 3]


async def test_watching_ends_with_a_cancel() -> None:
    async with open_shop() as shop:
        shop.release.set()
        watching = asyncio.create_task(watched(shop.execution("sleeping")))
        await shop.tester.settle()
        await shop.execution("sleeping").cancel()

        async with asyncio.timeout(5):
            assert [info.status for info in await watching] == ["sleeping", "cancelled"]
