"""What every store promises of pause, resume, wake, restart, retry and fork."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from stepwell.store.open import OpenStore
from stepwell.store.records import NewRun, Owned, Standing, Taken
from stepwell.store.transitions import (
    ChildStarted,
    Failing,
    Idle,
    NewExecution,
    Parked,
    Refused,
    Released,
    Resumed,
    StepFinished,
    Transition,
)
from stepwell.types import STATUSES
from tests.store.builders import (
    INPUT,
    NOW,
    SECOND,
    apply,
    claim,
    finished,
    get,
    parked,
    queue,
    register,
    retrying,
    start,
    started,
    step,
    waiting,
)

pytestmark = pytest.mark.anyio

LATER = NOW + 100 * SECOND


async def reach(store: OpenStore, status: str) -> None:
    """Execution `e` in this status, started before unless it is queued, without an owner unless it is running."""
    await register(store)
    if status == "queued":
        await queue(store, "e")
        return
    await start(store, "e")
    match status:
        case "sleeping" | "listening":
            await apply(store, waiting(), parked(status=status, wake_at=LATER))
        case "paused":
            await store.pause("e")
            await apply(store, Released("e", 1, NOW))
        case "running":
            pass
        case _:
            await apply(store, finished(status=status))
    assert (await get(store)).status == status


async def restart(
    store: OpenStore,
    request: str = "r",
    *,
    from_step: str | None = None,
    input: str | None = None,
) -> NewRun | None:
    return await store.restart("e", expected_run=1, request=request, from_step=from_step, input=input, now=LATER)


async def retry(store: OpenStore, request: str = "r") -> NewRun | None:
    return await store.retry("e", expected_run=1, request=request, now=LATER)


async def fork(
    store: OpenStore, new_id: str = "f", *, from_step: str | None = None, input: str | None = None
) -> NewRun | None:
    return await store.fork("e", new_id=new_id, from_step=from_step, input=input, now=LATER)


async def pause(store: OpenStore) -> Taken | None:
    return await store.pause("e")


async def resume(store: OpenStore) -> Taken | None:
    return await store.resume("e", now=NOW)


async def wake(store: OpenStore) -> Taken | None:
    return await store.wake("e", run=1, waits=[("s", 1)], now=NOW)


class Operation(NamedTuple):
    do: Callable[[OpenStore], Awaitable[Taken | NewRun | None]]
    allowed: set[str]


OPERATIONS = {
    "pause": Operation(pause, {"queued", "running", "sleeping", "listening"}),
    "resume": Operation(resume, {"paused"}),
    "retry": Operation(retry, {"failed", "cancelled", "aborted"}),
    "restart": Operation(restart, set(STATUSES)),
    "fork": Operation(fork, set(STATUSES)),
    # `reach` leaves a sleep open in both; what counts is the step, not the status.
    "wake": Operation(wake, {"sleeping", "listening"}),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", STATUSES)
async def test_each_operation_from_each_status(store: OpenStore, status: str, operation: str) -> None:
    await reach(store, status)
    before = await get(store)
    do, allowed = OPERATIONS[operation]

    answer = await do(store)

    assert answer is not None
    assert (answer.done, answer.status) == (status in allowed, status)
    if status not in allowed or operation == "fork":
        assert await get(store) == before


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_nothing_is_done_to_what_does_not_exist(store: OpenStore, operation: str) -> None:
    assert await OPERATIONS[operation].do(store) is None
    assert await store.standing("e") is None


async def test_standing_tells_what_is_open(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    deadline = replace(waiting(path="w"), kind="within")
    await apply(store, waiting(path="s"), retrying(path="r", attempt=2), deadline, step(path="d"), started(path="b"))

    assert await store.standing("e") == Standing("e", "wf", "running", 1, [("r", 2), ("s", 1)])


# Pause


async def test_pausing_what_is_owned_leaves_it_with_its_owner_who_is_told(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", timeout=5 * SECOND, deadline_at=NOW + 5 * SECOND)

    assert await store.pause("e") == Taken("e", True, "running", "w")

    row = await get(store)
    assert (row.status, row.owner, row.epoch, row.wake_at) == ("paused", "w", 1, NOW + 5 * SECOND)
    assert await store.owned("w") == Owned(1, [("e", 1, 1)])
    [claimed] = await store.load("w", ["e"])
    assert (claimed.paused, claimed.signal) == (True, 1)
    assert await store.pause("e") == Taken("e", False, "paused", "w")
    assert (await store.owned("w")).fence == 1


@pytest.mark.parametrize(
    "transition",
    [Resumed("e", 1), Idle("e", 1, "sleeping", LATER, "s"), waiting(idle=True), retrying(idle=True)],
    ids=lambda transition: type(transition).__name__,
)
async def test_what_the_owner_writes_does_not_end_a_pause(store: OpenStore, transition: Transition) -> None:
    await register(store)
    await start(store, "e")
    await store.pause("e")

    assert await apply(store, transition) == [None]
    assert ((await get(store)).status, (await get(store)).wake_at) == ("paused", None)


@pytest.mark.parametrize("deadline", [None, NOW + 50 * SECOND], ids=["endless", "deadline"])
@pytest.mark.parametrize(
    "transition",
    [Released("e", 1, NOW), Parked("e", 1, "sleeping", LATER, "s", 0), Parked("e", 1, "listening", None, "s", 0)],
    ids=["released", "sleeping", "listening"],
)
async def test_the_owner_leaves_it_paused(store: OpenStore, transition: Transition, deadline: int | None) -> None:
    await register(store)
    timeout = None if deadline is None else 50 * SECOND
    await start(store, "e", timeout=timeout, deadline_at=deadline)
    await store.pause("e")

    assert await apply(store, transition) == [None]

    row = await get(store)
    assert (row.status, row.owner, row.wake_at) == ("paused", None, deadline)
    # Sent again after an unknown commit it is recognised, whatever people did in between.
    assert await apply(store, transition) == [None]
    await store.resume("e", now=NOW)
    assert await apply(store, transition) == [None]
    assert (await get(store)).status == "queued"


async def test_what_is_paused_is_claimed_at_its_deadline_only(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", timeout=5 * SECOND, deadline_at=NOW + 5 * SECOND)
    await start(store, "endless")
    for id in ("e", "endless"):
        await store.pause(id)
        await apply(store, Released(id, 1, NOW))

    result = await store.claim("w", ["wf"], 10, suspects=1, now=NOW + 5 * SECOND - 1)
    assert (result.claimed, result.next_at) == ([], NOW + 5 * SECOND)
    [claimed] = await claim(store, now=NOW + 5 * SECOND)
    assert (claimed.id, claimed.paused) == ("e", False)
    assert await claim(store, now=NOW + 1000 * SECOND) == []


async def test_a_paused_suspect_is_claimed_at_its_deadline(store: OpenStore) -> None:
    await register(store, "reaper")
    for epoch in range(2):
        await register(store, "w")
        if epoch == 0:
            await start(store, "e", timeout=5 * SECOND, deadline_at=NOW + 5 * SECOND)
        else:
            await claim(store)
        await store.reap("reaper", "w", dead=True, crashed=True, now=NOW)
    await store.pause("e")

    assert await claim(store, by="reaper", now=NOW + 4 * SECOND) == []
    [claimed] = await claim(store, by="reaper", now=NOW + 5 * SECOND)
    assert claimed.crashes == 2


async def test_a_delay_outlasts_a_pause(store: OpenStore) -> None:
    await register(store)
    await queue(store, "e", wake_at=LATER, timeout=SECOND)
    await store.pause("e")

    assert await claim(store, now=LATER) == []
    await store.resume("e", now=NOW)
    assert await claim(store, now=LATER - 1) == []
    assert len(await claim(store, now=LATER)) == 1


async def test_a_dead_worker_leaves_it_paused(store: OpenStore) -> None:
    await register(store)
    await register(store, "reaper")
    await start(store, "e")
    await store.pause("e")

    assert await store.reap("reaper", "w", dead=True, crashed=True, now=NOW) == 1

    row = await get(store)
    assert (row.status, row.owner, row.crashes) == ("paused", None, 0)
    assert await claim(store, by="reaper", now=LATER) == []


async def test_what_only_cleans_up_has_no_deadline(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", timeout=SECOND, deadline_at=NOW + SECOND)
    await apply(store, Failing("e", 1, 1, '"boom"'), parked(wake_at=LATER))
    assert (await get(store)).wake_at == LATER
    await store.pause("e")
    assert (await get(store)).wake_at is None


# Resume


async def test_resumed_before_its_owner_has_left(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await store.pause("e")

    assert await store.resume("e", now=NOW) == Taken("e", True, "paused", "w")

    assert ((await get(store)).status, (await get(store)).owner) == ("running", "w")
    assert await store.owned("w") == Owned(2, [("e", 1, 2)])
    # The owner had decided to leave when it knew of neither.
    await apply(store, Parked("e", 1, "sleeping", LATER, "s", 0), fence=2)
    row = await get(store)
    assert (row.status, row.wake_at) == ("queued", NOW)
    assert len(await claim(store)) == 1


# Wake


async def test_wake_ends_the_waits_that_are_named(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    both = (waiting(path="s", wake_at=LATER), waiting(path="t", wake_at=LATER))
    await apply(store, *both, parked(wake_at=LATER))

    async def wake_s() -> Taken | None:
        return await store.wake("e", run=1, waits=[("s", 1)], now=NOW + 5)

    assert await wake_s() == Taken("e", True, "sleeping", None)
    assert await wake_s() == Taken("e", True, "sleeping", None)

    assert {row.path: (row.wake_at, row.flag) for row in await store.steps("e")} == {
        "s": (NOW + 5, "woken"),
        "t": (LATER, None),
    }
    [claimed] = await claim(store, now=NOW + 5)
    assert {row.path: row.wake_at for row in claimed.history} == {"s": NOW + 5, "t": LATER}
    # Sent again after the step has ended and another one sleeps, it changes nothing.
    after = [step(path="s", epoch=2, kind="sleep"), waiting(path="u", epoch=2, wake_at=LATER)]
    await apply(store, *after, parked(epoch=2, wake_at=LATER))
    before = await get(store)
    assert await wake_s() == Taken("e", True, "sleeping", None)
    assert await get(store) == before


async def test_a_later_backoff_can_be_ended_too(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    for attempt in (1, 2):
        await apply(store, retrying(attempt=attempt))
        taken = await store.wake("e", run=1, waits=[("a", attempt)], now=NOW + 2)
        assert taken == Taken("e", True, "running", "w")
        assert [row.wake_at for row in await store.steps("e")] == [NOW + 2]
    assert (await store.owned("w")) == Owned(2, [("e", 1, 2)])


async def test_a_wait_that_is_over_or_of_another_run_is_not_woken(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, waiting(wake_at=LATER))

    assert await store.wake("e", run=2, waits=[("s", 1)], now=NOW) == Taken("e", False, "running", "w")
    assert await store.wake("e", run=1, waits=[("s", 1)], now=LATER) == Taken("e", False, "running", "w")
    await apply(store, step(path="s", kind="sleep"))
    assert await store.wake("e", run=1, waits=[("s", 1)], now=NOW) == Taken("e", False, "running", "w")
    assert await store.owned("w") == Owned(0, [("e", 1, 0)])


async def test_woken_while_its_owner_parks_it_is_claimable(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, waiting(wake_at=LATER))
    await store.wake("e", run=1, waits=[("s", 1)], now=NOW)

    await apply(store, Parked("e", 1, "sleeping", LATER, "s", 0))

    assert len(await claim(store)) == 1


# New runs


@pytest.mark.parametrize("status", ["running", "failed"])
async def test_restart_begins_a_new_generation(store: OpenStore, status: str) -> None:
    await register(store)
    await start(store, "e", timeout=SECOND, deadline_at=NOW + SECOND)
    await apply(store, step(path="a"), waiting(path="s"))
    if status == "failed":
        await apply(store, finished(status="failed", output=None, error='"boom"'))

    assert await restart(store, input="5") == NewRun("e", True, status, "w" if status == "running" else None, 2)

    row = await get(store)
    assert (row.status, row.run, row.generation, row.owner, row.wake_at) == ("queued", 2, 2, None, LATER)
    assert (row.started_at, row.finished_at, row.deadline_at, row.crashes) == (None, None, None, 0)
    assert (row.input, row.output, row.error) == ("5", None, None)
    assert await store.steps("e") == []
    old, current = await store.runs("e")
    ended = ("cancelled", "restarted", LATER) if status == "running" else ("failed", None, NOW + 3)
    assert (old.status, old.reason, old.finished_at, old.input) == (*ended, INPUT)
    assert (current.run, current.status) == (2, "queued")
    assert {row.path: row.status for row in await store.steps("e", 1)} == {"a": "completed", "s": "cancelled"}
    [claimed] = await claim(store, now=LATER)
    assert (claimed.run, claimed.generation, claimed.history) == (2, 2, [])
    assert (claimed.started_at, claimed.deadline_at) == (LATER, LATER + SECOND)


@pytest.mark.parametrize("transition", [step(path="b"), finished(), parked(), Released("e", 1, NOW)], ids=repr)
async def test_late_writes_of_the_older_run_are_refused(store: OpenStore, transition: Transition) -> None:
    await register(store)
    await start(store, "e")
    await restart(store)

    assert (await store.owned("w")) == Owned(1, [])
    assert await apply(store, transition) == [Refused("e")]
    await claim(store, now=LATER)
    assert await apply(store, transition) == [Refused("e")]
    assert (await store.steps("e", 1), [run.output for run in await store.runs("e")]) == ([], [None, None])
    assert (await get(store)).status == "running"


async def test_the_new_run_is_not_refused_with_the_old_one(store: OpenStore) -> None:
    """A worker that has claimed it again may send what is left of the old run in the same batch."""
    await register(store)
    await start(store, "e")
    await restart(store)
    [claimed] = await claim(store, now=LATER)

    fresh = replace(step(path="b", epoch=claimed.epoch), run=2)
    assert await apply(store, step(path="a"), fresh) == [Refused("e"), None]
    assert ([row.path for row in await store.steps("e")], await store.steps("e", 1)) == (["b"], [])


@pytest.mark.parametrize("again", [restart, retry], ids=["restart", "retry"])
async def test_sent_again_it_is_told_the_same(
    store: OpenStore, again: Callable[[OpenStore, str], Awaitable[NewRun | None]]
) -> None:
    await reach(store, "failed")
    first = await again(store, "mine")
    assert first == NewRun("e", True, "failed", None, 2)

    assert await again(store, "mine") == NewRun("e", True, "queued", None, 2)
    assert await again(store, "another's") == NewRun("e", False, "queued", None, 2)
    assert (await get(store)).run == 2
    await claim(store, now=LATER)
    assert await again(store, "mine") == NewRun("e", True, "running", "w", 2)
    assert (await get(store)).status == "running"


async def test_from_a_step(store: OpenStore) -> None:
    """In the order of first records: `p` began before `b` and ended after it."""
    await register(store)
    await start(store, "e")
    await apply(store, step(path="a", output='"A"'))
    await apply(store, started(path="p"))
    await apply(store, retrying(path="b"))
    await apply(store, step(path="b", attempt=2), step(path="p", undo="1"), step(path="c"))
    await apply(store, finished())

    assert (await restart(store, from_step="nothing")) == NewRun("e", False, "completed", None, 1, unknown_step=True)
    assert (await restart(store, from_step="b")) == NewRun("e", True, "completed", None, 2)

    kept = {row.path: row for row in await store.steps("e")}
    assert list(kept) == ["a", "p"]
    before = {row.path: row for row in await store.steps("e", 1)}
    assert kept == {path: replace(before[path], run=2) for path in kept}
    [claimed] = await claim(store, now=LATER)
    assert {row.path: row.undo for row in claimed.history} == {"a": None, "p": "1"}


async def test_retry_keeps_the_generation_and_every_result(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, step(path="a"), retrying(path="b"))
    failed = StepFinished("e", 1, 1, "b", 1, "run", "failed", 2, None, None, '"boom"', NOW, NOW + 1)
    await apply(store, failed, waiting(path="s"), step(path="c"))
    await apply(store, finished(status="failed", output=None, error='"boom"'))

    assert (await retry(store)) == NewRun("e", True, "failed", None, 2)

    row = await get(store)
    assert (row.status, row.run, row.generation) == ("queued", 2, 1)
    assert [row.path for row in await store.steps("e")] == ["a", "c"]


async def test_attempts_are_copied_with_their_step(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, retrying(path="a"))
    await apply(store, step(path="a", attempt=2))
    await apply(store, finished(status="aborted"))
    await retry(store)

    [row] = await store.steps("e")
    assert [attempt.error for attempt in row.attempts] == ['"boom"']


async def test_fork_makes_another_execution(store: OpenStore) -> None:
    await register(store)
    await start(
        store, "e", priority=3, version="v", timeout=SECOND, deadline_at=NOW + SECOND, tags=("x",), parent_id="p"
    )
    await apply(store, step(path="a"), waiting(path="s"))
    before = await get(store)

    assert await fork(store, from_step="s") == NewRun("f", True, "running", "w", 1)
    assert await fork(store, from_step="s") == NewRun("f", True, "running", "w", 1)

    assert await get(store) == before
    row = await get(store, "f")
    assert (row.status, row.owner, row.run, row.generation, row.epoch) == ("queued", None, 1, 1, 0)
    assert (row.priority, row.version, row.tags, row.parent_id) == (3, "v", ("x",), None)
    assert (row.created_at, row.wake_at, row.deadline_at, row.input) == (LATER, LATER, None, INPUT)
    assert [row.path for row in await store.steps("f")] == ["a"]
    assert (await fork(store, "g", from_step="nothing")) == NewRun("g", False, "running", "w", 1, unknown_step=True)
    assert await store.execution("g") is None
    await fork(store, "h", input="7")
    assert ((await get(store, "h")).input, await store.steps("h")) == ("7", [])


def child_started(path: str, child: str) -> ChildStarted:
    made = NewExecution(child, "wf", INPUT, NOW, parent_id="e", parent_run=1, parent_path=path, attached=True)
    return ChildStarted("e", 1, 1, path, 1, "start", None, NOW, made, False, False)


async def test_children_of_the_old_run_end_unless_the_new_one_keeps_their_start(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, child_started("kept", "c1"))
    await apply(store, step(path="b"))
    await apply(store, child_started("again", "c2"))

    await restart(store, from_step="b")
    taken = await store.cancel_orphans(now=LATER, limit=10)

    assert [one.execution_id for one in taken] == ["c2"]
    assert [row.path for row in await store.steps("e")] == ["kept"]
    assert (await get(store, "c1")).status == "queued"
    assert await store.cancel_orphans(now=LATER, limit=10) == []
    # They belong to the new run, and end with it.
    await store.cancel("e", reason=None, now=LATER)
    assert [one.execution_id for one in await store.cancel_orphans(now=LATER, limit=10)] == ["c1"]


async def test_a_start_whose_child_was_lost_is_not_kept(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, child_started("lost", "c1"), step(path="a"))
    await apply(store, child_started("ended", "c2"))
    await claim(store)
    await apply(store, finished("c2", epoch=1))
    await apply(store, finished(status="failed", output=None, error='"boom"'))

    await retry(store)

    assert {row.path for row in await store.steps("e")} == {"ended", "a"}
    assert [one.execution_id for one in await store.cancel_orphans(now=LATER, limit=10)] == ["c1"]
