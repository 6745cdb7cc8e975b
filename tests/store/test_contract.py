"""What every store promises to the engine: `Store`, through the protocol alone."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.errors import InvalidInputError, SerializationError
from stepwell.store.open import OpenStore
from stepwell.store.records import ClaimResult, Owned, Taken
from stepwell.store.transitions import (
    Exists,
    Failing,
    Parked,
    Progressed,
    Refused,
    Released,
    Resumed,
    StepFlagged,
    Transition,
    Triggered,
    TriggeredMany,
)
from tests.store.builders import (
    NOW,
    SECOND,
    SteppingClock,
    apply,
    claim,
    finished,
    get,
    new,
    parked,
    queue,
    register,
    retrying,
    start,
    started,
    step,
    until,
    waiting,
)

pytestmark = pytest.mark.anyio


# Triggering


async def test_trigger_queues_the_execution(store: OpenStore) -> None:
    await queue(store, "e", priority=3, version="v", parent_id="p", timeout=5, tags=("b", "a"))

    row = await get(store)
    assert (row.status, row.owner, row.epoch, row.run, row.generation) == ("queued", None, 0, 1, 1)
    assert (row.wake_at, row.started_at, row.deadline_at) == (NOW, None, None)
    assert (row.priority, row.version, row.parent_id, row.tags) == (3, "v", "p", ("a", "b"))
    assert row.input == '{"n":1}'


async def test_direct_start_is_owned_at_epoch_1(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", timeout=5, deadline_at=NOW + 5)

    row = await get(store)
    assert (row.status, row.owner, row.epoch, row.started_at, row.deadline_at) == ("running", "w", 1, NOW, NOW + 5)
    assert (await store.owned("w")).executions == [("e", 1, 0)]


async def test_direct_start_by_a_worker_that_is_gone_is_queued(store: OpenStore) -> None:
    assert await apply(store, Triggered(new("e", owner="w", deadline_at=NOW + 5)), by="w") == [None]

    await register(store, "other")
    [claimed] = await claim(store, by="other")
    assert (claimed.id, claimed.epoch, claimed.deadline_at) == ("e", 2, None)


async def test_trigger_sent_again_changes_nothing(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, finished("e"))

    assert await apply(store, Triggered(new("e", owner="w"))) == [None]
    assert (await get(store)).status == "completed"
    assert (await store.owned("w")).executions == []


async def test_chosen_id_sent_again_is_told_the_same(store: OpenStore) -> None:
    assert await apply(store, Triggered(new(request="r1")), by=None) == [None]
    assert await apply(store, Triggered(new(request="r1")), by=None) == [None]


@pytest.mark.parametrize(
    ("other", "same"),
    [({}, True), ({"input": "2"}, False), ({"workflow": "other"}, False)],
    ids=["same", "input", "workflow"],
)
async def test_chosen_id_of_another_request_exists(store: OpenStore, other: dict[str, Any], same: bool) -> None:
    await apply(store, Triggered(new(request="r1", tags=("kept",))), by=None)

    verdicts = await apply(store, Triggered(new(request="r2", tags=("lost",), **other)), by=None)

    assert verdicts == [Exists("e", same=same)]
    assert (await get(store)).tags == ("kept",)


async def test_two_requests_for_one_id_in_one_batch(store: OpenStore) -> None:
    verdicts = await apply(store, Triggered(new(request="r1")), Triggered(new(request="r2", input="2")), by=None)

    assert verdicts == [None, Exists("e", same=False)]


async def test_trigger_many_inserts_all_or_none(store: OpenStore) -> None:
    await queue(store, "b", request="r1")

    many = TriggeredMany((new("a", request="r2"), new("b", request="r2"), new("c", request="r2")))
    assert await apply(store, many, Triggered(new("d")), by=None) == [Exists("b", same=True), None]
    assert await store.execution("a") is None
    assert await store.execution("c") is None
    assert await store.execution("d") is not None


async def test_trigger_many_sent_again_is_told_the_same(store: OpenStore) -> None:
    many = TriggeredMany((new("a", request="r"), new("b", request="r")))

    assert await apply(store, many, by=None) == [None]
    assert await apply(store, many, by=None) == [None]
    assert (await store.counts())["queued"] == 2


async def test_trigger_many_with_one_id_twice_inserts_none(store: OpenStore) -> None:
    many = TriggeredMany((new("a", request="r"), new("a", request="r")))

    assert await apply(store, many, by=None) == [Exists("a", same=True)]
    assert await store.execution("a") is None


# Steps


async def test_step_is_recorded_once_and_stays(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, step(output="1"))

    late = [step(output="2", status="failed", error="2"), started(), retrying(attempt=2), waiting(path="a")]
    assert await apply(store, *late) == [None] * 4

    [row] = await store.steps("e")
    assert (row.status, row.output, row.attempt, row.wake_at) == ("completed", "1", 1, None)


async def test_open_step_is_ended_in_the_same_batch(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")

    await apply(store, started(), retrying(attempt=1), step(attempt=2))

    [row] = await store.steps("e")
    assert (row.status, row.attempt, row.wake_at) == ("completed", 2, None)
    assert [each.attempt for each in row.attempts] == [1]


async def test_attempts_are_kept(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")

    for attempt in (1, 2):
        await apply(store, retrying(attempt=attempt))
        await apply(store, started(attempt=attempt + 1))
    [row] = await store.steps("e")
    assert (row.status, row.attempt, row.wake_at) == ("running", 3, None)
    await apply(store, step(attempt=3, status="failed", output=None, error='"end"'))

    [row] = await store.steps("e")
    assert (row.status, row.error) == ("failed", '"end"')
    assert [(each.attempt, each.error, each.worker) for each in row.attempts] == [
        (1, '"boom"', "w"),
        (2, '"boom"', "w"),
        (3, '"end"', "w"),
    ]


async def test_an_older_attempt_does_not_come_back(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, retrying(attempt=2))

    await apply(store, started(attempt=1), retrying(attempt=1))

    [row] = await store.steps("e")
    assert (row.status, row.attempt) == ("retrying", 2)


async def test_a_stored_deadline_never_changes(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, waiting(wake_at=NOW + 5))

    await apply(store, waiting(wake_at=NOW + 9))

    [row] = await store.steps("e")
    assert (row.status, row.wake_at) == ("sleeping", NOW + 5)


async def test_idle_wait_shows_on_the_execution_until_resumed(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "f")

    await apply(store, waiting("e", idle=True), retrying("f", idle=True))
    assert [(await get(store, id)).status for id in ("e", "f")] == ["sleeping", "sleeping"]
    assert (await get(store)).owner == "w"
    assert await claim(store, now=NOW + 9 * SECOND) == []

    await apply(store, step("e", path="s"), Resumed("e", 1))
    row = await get(store)
    assert (row.status, row.wake_at, row.waiting_for) == ("running", None, None)


async def test_order_within_an_execution_is_kept(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "f")

    await apply(
        store,
        waiting("e", idle=True),
        Resumed("f", 1),
        Resumed("e", 1),
        waiting("f", idle=True),
        step("e", path="s"),
        waiting("e", path="t", idle=True),
        finished("f"),
    )

    assert [(await get(store, id)).status for id in ("e", "f")] == ["sleeping", "completed"]


async def test_flag_marks_a_step(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")

    await apply(store, step(), StepFlagged("e", 1, 1, "a", "repeated"))

    assert (await store.steps("e"))[0].flag == "repeated"


# Parking, releasing, failing, finishing


async def test_parked_execution_has_no_owner_and_wakes(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")

    await apply(store, waiting(wake_at=NOW + 5), parked(wake_at=NOW + 5))

    row = await get(store)
    assert (row.status, row.owner, row.wake_at, row.waiting_for) == ("sleeping", None, NOW + 5, "s")
    assert await claim(store, now=NOW + 4) == []
    [claimed] = await claim(store, now=NOW + 5)
    assert (claimed.epoch, claimed.started_at, claimed.history[0].wake_at) == (2, NOW, NOW + 5)


@pytest.mark.parametrize(
    ("wake_at", "deadline_at", "expected"),
    [
        (NOW + 9, NOW + 5, NOW + 5),
        (NOW + 3, NOW + 5, NOW + 3),
        (None, NOW + 5, NOW + 5),
        (None, None, None),
        (NOW + 3, None, NOW + 3),
    ],
)
async def test_parked_execution_wakes_for_its_deadline(
    store: OpenStore, wake_at: int | None, deadline_at: int | None, expected: int | None
) -> None:
    await register(store)
    await start(store, "e", deadline_at=deadline_at)

    await apply(store, parked(status="listening", wake_at=wake_at))

    assert (await get(store)).wake_at == expected


async def test_listening_without_deadline_is_never_due(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, parked(status="listening", wake_at=None))

    assert await store.claim("w", ["wf"], 1, suspects=1, now=NOW * 2) == ClaimResult([], more=False, next_at=None)


async def test_released_execution_is_queued_without_a_crash(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")

    await apply(store, Released("e", 1, NOW + 5, "newer code"))

    row = await get(store)
    assert (row.status, row.owner, row.wake_at, row.waiting_for) == ("queued", None, NOW + 5, "newer code")
    [claimed] = await claim(store, now=NOW + 5)
    assert (claimed.epoch, claimed.crashes) == (2, 0)


async def test_failing_is_known_to_the_next_claim(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")

    await apply(store, Failing("e", 1, 1, '"boom"'), Released("e", 1, NOW))

    [claimed] = await claim(store)
    assert claimed.failing == '"boom"'
    await apply(store, finished(epoch=2, status="failed", output=None, error=None))
    row = await get(store)
    assert (row.status, row.error) == ("failed", '"boom"')


async def test_finished_execution_keeps_nothing_open(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, step("e", "done"), started("e", "open"), waiting("e", "asleep"), retrying("e", "again"))

    await apply(store, finished(status="failed", output=None, error='"no"'))

    row = await get(store)
    assert (row.status, row.owner, row.wake_at, row.error, row.finished_at) == ("failed", None, None, '"no"', NOW + 3)
    steps = {each.path: (each.status, each.finished_at, each.wake_at) for each in await store.steps("e")}
    assert steps == {
        "done": ("completed", NOW + 2, None),
        "open": ("cancelled", NOW + 3, None),
        "asleep": ("cancelled", NOW + 3, None),
        "again": ("cancelled", NOW + 3, None),
    }
    assert await claim(store, now=NOW * 2) == []


async def test_finished_while_shown_as_waiting(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")

    await apply(store, waiting(idle=True), finished(status="aborted", output=None, reason="why"))

    row = await get(store)
    assert (row.status, row.wake_at, row.waiting_for, row.reason) == ("aborted", None, None, "why")


@pytest.mark.parametrize(
    "batch",
    [
        [step(), parked()],
        [waiting(idle=True), parked()],
        [retrying(), parked()],
        [step(), Progressed("e", 1), Released("e", 1, NOW + 5)],
        [Failing("e", 1, 1, '"no"'), step("e", "#undo/a"), finished(status="failed")],
        [started(), step(), StepFlagged("e", 1, 1, "a", "repeated"), finished()],
        [waiting(idle=True), Resumed("e", 1), finished(status="aborted", output=None, reason="why")],
    ],
    ids=["parked", "waiting", "retrying", "released", "failing", "finished", "aborted"],
)
@pytest.mark.parametrize("moved", [False, True], ids=["fence-equal", "fence-moved"])
async def test_batch_sent_again_is_told_the_same(store: OpenStore, batch: list[Transition], moved: bool) -> None:
    await register(store)
    await start(store, "e", "other")
    first = await apply(store, *batch)
    before = (await get(store), await store.steps("e"))
    if moved:
        await store.cancel("other", reason=None, now=NOW)

    assert await apply(store, *batch) == first == [None] * len(batch)
    assert (await get(store), await store.steps("e")) == before


async def test_transitions_sent_again_one_by_one_change_nothing(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    batch = [started(), retrying(), waiting(), Progressed("e", 1), Resumed("e", 1), step(attempt=2), finished()]

    for transition in batch:
        assert await apply(store, transition) == [None]
        before = (await get(store), await store.steps("e"))
        assert await apply(store, transition) == [None]
        assert (await get(store), await store.steps("e")) == before


# Fencing


async def test_apply_tells_the_fence(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    assert (await store.apply([step()], "w", 0)).fence == 0

    await store.cancel("e", reason=None, now=NOW)

    assert (await store.apply([], "w", 0)).fence == 1
    assert (await store.apply([], "nobody", 0)).fence is None
    assert (await store.apply([], None)).fence is None


async def test_cancelled_execution_takes_no_more(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "f")
    await store.cancel("e", reason=None, now=NOW)

    verdicts = await apply(store, step("e"), step("f"), finished("e"), Triggered(new("g", owner="w")))

    assert verdicts == [Refused("e"), None, Refused("e"), None]
    assert await store.steps("e") == []
    assert [each.path for each in await store.steps("f")] == ["a"]
    assert (await get(store)).status == "cancelled"
    assert (await get(store, "g")).owner == "w"


async def test_refused_although_the_fence_looks_equal(store: OpenStore) -> None:
    """Whoever parks in one batch and finishes in the next breaks the protocol; nothing of it is written."""
    await register(store)
    await start(store, "e", "f")
    await apply(store, parked("e"))

    assert await apply(store, step("e"), finished("e"), step("f")) == [Refused("e"), Refused("e"), None]
    assert await store.steps("e") == []
    assert (await get(store)).status == "sleeping"


async def test_stale_epoch_is_refused(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, Released("e", 1, NOW))
    await claim(store)
    stale: list[Transition] = [
        finished(),
        parked(),
        Released("e", 1, NOW),
        Failing("e", 1, 1, "1"),
        Resumed("e", 1),
        Progressed("e", 1),
        waiting(idle=True),
        retrying(idle=True),
    ]

    for transition in stale:
        assert await apply(store, transition) == [Refused("e")]
    for transition in [*stale, step(), started(), StepFlagged("e", 1, 1, "a", "x")]:
        assert await apply(store, transition, fence=-1) == [Refused("e")]

    assert (await get(store)).status == "running"
    assert await store.steps("e") == []


@pytest.mark.parametrize("between", [step("f"), step("f", output="\ud800")], ids=["one-transaction", "halved"])
async def test_refusing_one_refuses_all_later_ones_of_its_claim(store: OpenStore, between: Transition) -> None:
    """But not those of a later claim by the same worker: what is left of the old one may stand in the same batch."""
    await register(store)
    await start(store, "e", "f")
    await apply(store, Released("e", 1, NOW))
    await claim(store)

    later = [step("e", "b"), step("e", "c", epoch=2), started("f")]
    verdicts = await apply(store, step("e", "a"), between, *later, fence=-1)

    assert (verdicts[0], verdicts[2:]) == (Refused("e"), [Refused("e"), None, None])
    assert [row.path for row in await store.steps("e")] == ["c"]


async def test_other_workers_execution_is_refused(store: OpenStore) -> None:
    await register(store)
    await register(store, "other")
    await start(store, "e", by="other")

    assert await apply(store, step(), fence=-1) == [Refused("e")]
    assert await apply(store, finished()) == [Refused("e")]


async def test_worker_that_is_gone_is_refused_but_its_clients_stand(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await store.deregister("w")

    verdicts = await apply(store, step(), Triggered(new("f")), Triggered(new("g", owner="w")), finished())

    assert verdicts == [Refused("e"), None, None, Refused("e")]
    assert (await get(store)).status == "queued"
    assert [(await get(store, id)).owner for id in ("f", "g")] == [None, None]


async def test_owner_transitions_without_a_worker_are_refused(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")

    assert await apply(store, step(), by=None) == [Refused("e")]


async def test_what_comes_after_giving_up_is_refused(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "f")

    verdicts = await apply(store, parked("e"), step("e"), finished("e"), step("f"))

    assert verdicts == [None, Refused("e"), Refused("e"), None]
    assert (await get(store)).status == "sleeping"
    assert await store.steps("e") == []


async def test_direct_start_and_first_steps_in_one_batch(store: OpenStore) -> None:
    await register(store)

    for fence, id in ((0, "e"), (-1, "f")):
        verdicts = await apply(store, Triggered(new(id, owner="w")), started(id), step(id), finished(id), fence=fence)
        assert verdicts == [None] * 4
        assert (await get(store, id)).status == "completed"


async def test_unknown_execution_is_refused(store: OpenStore) -> None:
    await register(store)

    assert await apply(store, finished("nowhere")) == [Refused("nowhere")]


# Data errors


async def test_data_error_refuses_only_its_transition(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "f")
    bad = step("e", "bad", output="\ud800")

    verdicts = await apply(
        store, step("e", "good"), bad, Triggered(new("g")), finished("f"), Triggered(new("h", input="\udfff"))
    )

    assert [verdict is None for verdict in verdicts] == [True, False, True, True, False]
    assert isinstance(verdicts[1], SerializationError)
    assert "StepFinished of execution 'e'" in str(verdicts[1])
    assert isinstance(verdicts[4], SerializationError)
    assert [each.path for each in await store.steps("e")] == ["good"]
    assert (await get(store, "f")).status == "completed"
    assert await store.execution("g") is not None
    assert await store.execution("h") is None


async def test_refusal_holds_across_a_data_error(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "f")
    await apply(store, parked("e"))
    bad = step("f", "bad", output="\ud800")

    verdicts = await apply(store, step("e"), bad, step("f"), finished("e"), step("e", "b"))

    assert [verdicts[index] for index in (0, 2, 3, 4)] == [Refused("e"), None, Refused("e"), Refused("e")]


async def test_values_that_nobody_can_store_are_refused(store: OpenStore) -> None:
    await queue(store, "e")

    for call in (store.execution("\ud800"), store.cancel("e", reason="\ud800", now=NOW), store.owned("\ud800")):
        with pytest.raises(InvalidInputError, match="cannot take this value"):
            await call
    assert (await get(store)).status == "queued"


# Claiming


async def test_claim_gives_all_that_replay_needs(store: OpenStore) -> None:
    await register(store)
    await queue(store, "e", options='{"retries":1}', version="v", timeout=7)
    await claim(store, now=NOW + 1)
    await apply(store, step("e", "a"), step("e", "b", seq=2, status="failed", output=None, error='"no"'))
    await apply(store, retrying("e", "c", attempt=2), Released("e", 1, NOW))

    result = await store.claim("w", ["wf"], 5, suspects=1, now=NOW + 2)

    assert (result.more, result.next_at) == (False, None)
    [claimed] = result.claimed
    assert (claimed.id, claimed.workflow, claimed.epoch, claimed.run, claimed.generation) == ("e", "wf", 2, 1, 1)
    assert (claimed.input, claimed.options, claimed.version) == ('{"n":1}', '{"retries":1}', "v")
    assert (claimed.created_at, claimed.started_at, claimed.deadline_at) == (NOW, NOW + 1, NOW + 8)
    assert (claimed.crashes, claimed.failing) == (0, None)
    history = {row.path: row for row in claimed.history}
    assert tuple(history["a"]) == ("a", 1, "run", "completed", 1, "1", None, None, NOW + 1, None, NOW + 2, None)
    assert (history["b"].status, history["b"].error) == ("failed", '"no"')
    assert (history["c"].status, history["c"].attempt, history["c"].wake_at) == ("retrying", 2, NOW + SECOND)
    assert await store.load("w", ["e", "nowhere"]) == [claimed]
    assert await store.load("other", ["e"]) == []


async def test_claim_order_is_due_waits_then_priority_then_age(store: OpenStore) -> None:
    await register(store)
    await start(store, "asleep")
    await apply(store, parked("asleep", wake_at=NOW + 3))
    await queue(store, "old", created_at=NOW - 2)
    await queue(store, "urgent", priority=5, created_at=NOW + 1)
    await queue(store, "older", created_at=NOW - 3, workflow="wf2")
    await queue(store, "lazy", priority=-1, created_at=NOW - 9)

    order: list[str] = []
    while (result := await store.claim("w", ["wf", "wf2"], 1, suspects=0, now=NOW + 9)).claimed:
        order += [each.id for each in result.claimed]
        assert result.more == (len(order) < 5)

    assert order == ["asleep", "urgent", "older", "old", "lazy"]


async def test_delayed_execution_waits_and_is_announced(store: OpenStore) -> None:
    await register(store)
    await queue(store, "later", wake_at=NOW + 50, priority=9)
    await queue(store, "sooner", wake_at=NOW + 30)
    await start(store, "asleep")
    await apply(store, parked("asleep", wake_at=NOW + 40))

    result = await store.claim("w", ["wf"], 5, suspects=1, now=NOW)
    assert result == ClaimResult([], more=False, next_at=NOW + 30)
    result = await store.claim("w", ["wf"], 5, suspects=1, now=NOW + 30)
    assert ([each.id for each in result.claimed], result.next_at) == (["sooner"], NOW + 40)


async def test_claim_leaves_other_workflows_alone(store: OpenStore) -> None:
    await register(store)
    await queue(store, "e", workflow="other")
    await queue(store, "f", workflow="other", wake_at=NOW + 5)

    assert await store.claim("w", ["wf"], 5, suspects=1, now=NOW) == ClaimResult([], more=False, next_at=None)


async def test_worker_that_is_gone_claims_nothing(store: OpenStore) -> None:
    await queue(store, "e")

    assert await claim(store, by="gone") == []
    assert (await get(store)).status == "queued"


async def test_crashes_in_a_row_are_counted_by_claims(store: OpenStore) -> None:
    await register(store)
    await queue(store, "e")

    for crashes in range(3):
        await register(store, f"w{crashes}")
        [claimed] = await claim(store, by=f"w{crashes}")
        assert claimed.crashes == crashes
        assert await store.reap("w", f"w{crashes}", dead=True, crashed=True, now=NOW) == 1
        assert (await get(store)).crashes == crashes

    [claimed] = await claim(store)
    await apply(store, Progressed("e", claimed.epoch), Released("e", claimed.epoch, NOW))
    [claimed] = await claim(store)
    assert claimed.crashes == 0


async def test_suspects_are_limited(store: OpenStore) -> None:
    await register(store)
    await queue(store, "s1", "s2", "s3")
    for turn in range(2):
        await register(store, f"w{turn}")
        assert len(await claim(store, by=f"w{turn}", suspects=9)) == 3
        await store.reap("w", f"w{turn}", dead=True, crashed=True, now=NOW)
    await queue(store, "plain")

    assert [each.id for each in await claim(store, suspects=0)] == ["plain"]
    assert len(await claim(store, suspects=2)) == 2
    assert await store.claim("w", ["wf"], 5, suspects=0, now=NOW) == ClaimResult([], more=False, next_at=None)
    assert len(await claim(store, suspects=1)) == 1


# Cancelling


async def test_cancel_ends_the_execution_and_its_open_steps(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, step(), started("e", "b"))

    assert await store.cancel("e", reason="why", now=NOW + 9) == Taken("e", True, "running", "w")

    row = await get(store)
    assert (row.status, row.epoch, row.owner, row.reason, row.finished_at) == ("cancelled", 2, None, "why", NOW + 9)
    assert {each.path: each.status for each in await store.steps("e")} == {"a": "completed", "b": "cancelled"}
    assert await store.owned("w") == Owned(1, [])


async def test_cancel_of_a_waiting_execution(store: OpenStore) -> None:
    await queue(store, "e")

    assert await store.cancel("e", reason=None, now=NOW) == Taken("e", True, "queued", None)


async def test_terminal_execution_is_not_cancelled(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, finished())

    assert await store.cancel("e", reason=None, now=NOW) == Taken("e", False, "completed", None)
    assert await store.cancel("nowhere", reason=None, now=NOW) is None
    assert (await get(store)).status == "completed"


# Workers


async def test_workers_are_listed_with_their_lease(store: OpenStore, clock: SteppingClock) -> None:
    await register(store, "w1")
    await register(store, "w2")

    rows = await store.workers()
    assert [row.id for row in rows] == ["w1", "w2"]
    assert 14 * SECOND < rows[0].lease_until - clock.uptime() <= 15 * SECOND


async def test_lease_is_renewed_in_idle_time(store: OpenStore, clock: SteppingClock) -> None:
    pulse = await register(store)
    [before] = await store.workers()

    clock.skip(6)
    await until(lambda: pulse.asked)

    await apply(store)  # stands behind the renewal in the queue
    [after] = await store.workers()
    assert after.lease_until >= before.lease_until + 6 * SECOND


async def test_lease_without_a_pulse_runs_out(store: OpenStore, clock: SteppingClock) -> None:
    pulse = await register(store)
    pulse.beating = False
    [before] = await store.workers()

    clock.skip(6)
    await until(lambda: pulse.asked)

    await apply(store)
    [after] = await store.workers()
    assert after.lease_until == before.lease_until


async def test_reaped_worker_is_told(store: OpenStore, clock: SteppingClock) -> None:
    pulse = await register(store)
    await register(store, "reaper")
    await store.reap("reaper", "w", dead=True, crashed=True, now=NOW)

    clock.skip(6)

    await until(lambda: pulse.is_lost)


async def test_deregistered_worker_gives_back_without_a_crash(store: OpenStore, clock: SteppingClock) -> None:
    pulse = await register(store)
    await start(store, "e")
    await apply(store, waiting(idle=True))

    await store.deregister("w")
    await store.deregister("w")

    assert await store.workers() == []
    row = await get(store)
    assert (row.status, row.owner, row.epoch, row.wake_at, row.waiting_for) == ("queued", None, 1, clock.now(), None)
    await register(store, "other")
    [claimed] = await claim(store, by="other", now=clock.now())
    assert (claimed.epoch, claimed.crashes) == (2, 0)
    assert not pulse.is_lost


async def test_living_worker_is_not_reaped(store: OpenStore) -> None:
    await register(store)
    await register(store, "reaper")
    await start(store, "e")

    assert await store.reap("reaper", "w", dead=False, crashed=True, now=NOW) == 0
    assert (await get(store)).owner == "w"
    assert len(await store.workers()) == 2


@pytest.mark.parametrize("crashed", [False, True])
async def test_expired_worker_is_reaped(store: OpenStore, clock: SteppingClock, crashed: bool) -> None:
    pulse = await register(store)
    pulse.beating = False
    await register(store, "reaper")
    await start(store, "e", "f")
    clock.skip(16)

    assert await store.reap("reaper", "w", dead=False, crashed=crashed, now=NOW) == 2

    assert [row.id for row in await store.workers()] == ["reaper"]
    assert [each.crashes for each in await claim(store, by="reaper")] == [int(crashed)] * 2


async def test_expired_lease_can_be_renewed_until_it_is_reaped(store: OpenStore, clock: SteppingClock) -> None:
    pulse = await register(store)
    await start(store, "e")
    pulse.beating = False
    clock.skip(16)
    await until(lambda: pulse.asked)

    assert await apply(store, step()) == [None]
    pulse.beating = True
    asked = pulse.asked
    clock.skip(2)
    await until(lambda: pulse.asked > asked)
    await apply(store)
    assert (await store.workers())[0].lease_until > clock.uptime()


async def test_worker_of_an_earlier_boot_is_dead(store: OpenStore) -> None:
    await register(store, boot_id="before")
    await register(store, "reaper")
    await start(store, "e")

    assert await store.reap("reaper", "w", dead=False, crashed=True, now=NOW) == 1


async def test_reaper_renews_its_own_lease_first(store: OpenStore, clock: SteppingClock) -> None:
    await register(store)
    pulse = await register(store, "reaper")
    pulse.beating = False
    clock.skip(20)

    await store.reap("reaper", "w", dead=True, crashed=True, now=NOW)
    [row] = await store.workers()
    assert (row.id, row.lease_until > clock.uptime()) == ("reaper", True)
    await register(store)
    assert await store.reap("gone", "w", dead=True, crashed=True, now=NOW) == 0


async def test_finished_tells_the_terminal_and_the_unknown(store: OpenStore) -> None:
    await register(store)
    await start(store, "done", "running")
    await apply(store, finished("done"))

    assert await store.finished(["running", "nowhere", "done"]) == ["nowhere", "done"]


async def test_parked_by_a_claim_at_a_later_epoch(store: OpenStore) -> None:
    await register(store)
    await queue(store, "e")
    [claimed] = await claim(store)

    assert await apply(store, Parked("e", claimed.epoch, "listening", None, "event")) == [None]
    assert (await get(store)).waiting_for == "event"


# ---------------------------------------------------------------------------------------------------- cancel with undo


async def test_cancel_with_undo_queues_what_has_something_to_undo(store: OpenStore) -> None:
    await register(store)
    await start(store, "e")
    await apply(store, step("e", "a", undo="1"), started("e", "b"))

    taken = await store.cancel("e", reason="enough", now=NOW + 5, undo=True)

    assert taken == Taken("e", True, "running", "w", None, cleans_up=True)
    row = await get(store)
    assert (row.status, row.ending, row.reason, row.owner, row.epoch) == ("queued", "cancelled", "enough", None, 2)
    assert (row.wake_at, row.finished_at) == (NOW, None)
    assert {one.path: one.status for one in await store.steps("e")} == {"a": "completed", "b": "cancelled"}
    assert (await store.owned("w")).fence == 1
    assert await apply(store, step("e", "c")) == [Refused("e")]

    [claimed] = await claim(store)
    assert (claimed.epoch, claimed.ending, claimed.reason, claimed.failing) == (3, "cancelled", "enough", None)
    assert [(one.path, one.undo) for one in claimed.history] == [("a", "1"), ("b", None)]
    end = finished("e", 3, "cancelled", output=None, reason="enough")
    assert await apply(store, step("e", "#undo/a", 3), end, fence=1) == [None, None]
    row = await get(store)
    assert (row.status, row.reason, row.finished_at) == ("cancelled", "enough", NOW + 3)
    assert {one.path: one.undone for one in await store.steps("e")} == {"a": 1, "b": 0, "#undo/a": 0}


@pytest.mark.parametrize("undone", ["nothing", "failed-step", "ended", "failed-undo", "own"])
async def test_cancel_with_undo_ends_at_once_what_has_nothing_to_undo(store: OpenStore, undone: str) -> None:
    await register(store)
    await start(store, "e")
    match undone:
        case "nothing":
            steps = [step("e", "a")]
        case "failed-step":
            steps = [step("e", "a", status="failed", error='"no"', undo="1")]
        case "ended":
            steps = [step("e", "a", undo="1"), step("e", "#undo/a")]
        case "failed-undo":
            steps = [step("e", "a", undo="1"), step("e", "#undo/a", status="failed", error='"no"')]
        case _:
            steps = [step("e", "#on_error/a", undo="1")]
    await apply(store, *steps)

    assert await store.cancel("e", reason=None, now=NOW, undo=True) == Taken("e", True, "running", "w")
    assert (await get(store)).status == "cancelled"


async def test_cancel_with_undo_leaves_alone_what_cleans_up_already(store: OpenStore) -> None:
    await register(store)
    await start(store, "failing", "undoing")
    await apply(store, step("failing", "a", undo="1"), Failing("failing", 1, 1, '"no"'), step("undoing", "a", undo="1"))
    await store.cancel("undoing", reason="first", now=NOW, undo=True)

    again = await store.cancel("undoing", reason="second", now=NOW, undo=True)
    assert again == Taken("undoing", False, "queued", None, "cancelled")
    refused = await store.cancel("failing", reason="second", now=NOW, undo=True)
    assert refused == Taken("failing", False, "running", "w", "failed")
    assert (await get(store, "failing")).owner == "w"

    assert await store.cancel("undoing", reason=None, now=NOW) == Taken("undoing", True, "queued", None, "cancelled")
    row = await get(store, "undoing")
    assert (row.status, row.reason) == ("cancelled", "first")


async def test_parking_while_cleaning_up_does_not_mind_the_deadline(store: OpenStore) -> None:
    await register(store)
    await start(store, "e", "listens", deadline_at=NOW + 1)
    await apply(store, Failing("e", 1, 1, '"no"'), parked("e", wake_at=NOW + 9))
    await apply(store, Failing("listens", 1, 1, '"no"'), parked("listens", status="listening", wake_at=None))

    assert (await get(store)).wake_at == NOW + 9
    assert (await get(store, "listens")).wake_at is None
