"""What every store promises of user code in its transactions, and of its transitions in those of users."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import InvalidInputError, SerializationError, WorkflowCodeError
from stepwell.store.open import OpenStore, open_store
from stepwell.store.records import Recorded, RolledBack
from stepwell.store.transitions import EventSent, Exists, Refused, StepFinished, Triggered, TriggeredMany, Unknown
from tests.store.builders import NOW, SteppingClock, apply, claim, finished, get, new, register, start, step

pytestmark = pytest.mark.anyio


class Deed:
    """A step that writes a row of the user's, with every answer that the engine can give."""

    def __init__(self, id: str = "e", epoch: int = 1, path: str = "a") -> None:
        self.execution_id = id
        self.epoch = epoch
        self.run = 1
        self.path = path
        self.wanted = True
        self.last_word = True
        self.over = False
        self.calls = 0
        self.output = ""
        self.fn: Callable[[Any], object] = lambda _: None

    def begin(self) -> bool:
        return self.wanted

    def is_over(self) -> bool:
        return self.over

    def call(self, connection: Any, /) -> StepFinished:
        self.calls += 1
        connection.execute("CREATE TABLE IF NOT EXISTS mine (n INTEGER)")
        connection.execute("INSERT INTO mine VALUES (?)", (self.calls,))
        self.fn(connection)
        return step(self.execution_id, self.path, self.epoch, kind="transaction", output=self.output or str(self.calls))

    def close(self) -> bool:
        return self.last_word


class Reading(Deed):
    """Reads what stands in the user's table."""

    def __init__(self, id: str = "e", epoch: int = 1) -> None:
        super().__init__(id, epoch, "reading")
        self.rows: list[int] = []

    def call(self, connection: Any, /) -> StepFinished:
        connection.execute("CREATE TABLE IF NOT EXISTS mine (n INTEGER)")
        self.rows = [n for (n,) in connection.execute("SELECT n FROM mine")]
        raise LookupError


async def mine(store: OpenStore, id: str = "e", epoch: int = 1) -> list[int]:
    reading = Reading(id, epoch)
    assert isinstance(await store.transact_step("w", reading), RolledBack)
    return reading.rows


@pytest.fixture
async def owned(store: OpenStore) -> OpenStore:
    """A store with an execution `e` that worker `w` owns."""
    await register(store)
    await start(store, "e")
    return store


async def test_rows_and_record_are_written_together(owned: OpenStore) -> None:
    deed = Deed()

    assert await owned.transact_step("w", deed) is None

    [row] = await owned.steps("e")
    assert (row.path, row.kind, row.status, row.output) == ("a", "transaction", "completed", "1")
    assert await mine(owned) == [1]


async def test_crashes_in_a_row_are_counted_anew_with_the_record(store: OpenStore) -> None:
    """Whoever dies right after the commit has made progress."""
    await register(store)
    await register(store, "dead")
    await start(store, "e", by="dead")
    await store.reap("w", "dead", dead=True, crashed=True, now=NOW)
    [claimed] = await claim(store)
    assert claimed.crashes == 1

    assert isinstance(await store.transact_step("w", Reading("e", claimed.epoch)), RolledBack)
    assert (await get(store)).crashes == 1
    assert await store.transact_step("w", Deed(epoch=claimed.epoch)) is None
    assert (await get(store)).crashes == 0


async def test_a_step_that_was_recorded_is_not_called_again(owned: OpenStore) -> None:
    """As when the answer to the first sending was lost."""
    deed = Deed()
    await owned.transact_step("w", deed)
    await apply(owned, step(path="b", status="failed", output=None, error='"boom"'))

    assert await owned.transact_step("w", deed) == Recorded("completed", "1", None)
    assert await owned.transact_step("w", Deed(path="b")) == Recorded("failed", None, '"boom"')
    assert deed.calls == 1
    assert await mine(owned) == [1]


async def test_whoever_does_not_own_the_execution_is_refused(owned: OpenStore) -> None:
    await register(owned, "other")
    await apply(owned, Triggered(new("done", owner="w")), finished("done"))

    for worker, deed in [
        ("other", Deed()),
        ("gone", Deed()),
        ("w", Deed(epoch=2)),
        ("w", Deed("unknown")),
        ("w", Deed("done")),
    ]:
        assert await owned.transact_step(worker, deed) == Refused(deed.execution_id)
        assert deed.calls == 0


async def test_a_worker_that_was_reaped_is_refused(owned: OpenStore) -> None:
    await register(owned, "other")
    await owned.reap("other", "w", dead=True, crashed=False, now=NOW)
    await claim(owned, by="other")

    deed = Deed()
    assert await owned.transact_step("w", deed) == Refused("e")
    assert deed.calls == 0


async def test_an_error_rolls_everything_back(owned: OpenStore) -> None:
    deed, error = Deed(), ValueError("no")

    def fail(_: object) -> None:
        raise error

    deed.fn = fail
    assert await owned.transact_step("w", deed) == RolledBack(error)
    assert await mine(owned) == []
    assert await owned.steps("e") == []


@pytest.mark.parametrize(("wanted", "last_word", "calls"), [(False, True, 0), (True, False, 1)], ids=["begin", "close"])
async def test_it_can_be_stopped_before_and_after_the_function(
    owned: OpenStore, wanted: bool, last_word: bool, calls: int
) -> None:
    deed = Deed()
    deed.wanted, deed.last_word = wanted, last_word

    assert await owned.transact_step("w", deed) == RolledBack(None)
    assert deed.calls == calls
    assert await mine(owned) == []
    assert await owned.steps("e") == []


async def test_it_can_be_stopped_between_statements(owned: OpenStore) -> None:
    deed = Deed()

    def go_on(connection: Any) -> None:
        deed.over = True
        connection.execute("INSERT INTO mine VALUES (9)")

    deed.fn = go_on
    answer = await owned.transact_step("w", deed)
    assert isinstance(answer, RolledBack)
    assert "taken too long" in str(answer.error)
    assert await mine(owned) == []


async def test_a_commit_inside_is_refused(owned: OpenStore) -> None:
    deed = Deed()
    deed.fn = lambda connection: connection.commit()

    answer = await owned.transact_step("w", deed)
    assert isinstance(answer, RolledBack)
    assert isinstance(answer.error, WorkflowCodeError)
    assert await mine(owned) == []


async def test_a_value_that_cannot_be_stored_rolls_back(owned: OpenStore) -> None:
    deed = Deed()
    deed.output = "\ud800"

    answer = await owned.transact_step("w", deed)
    assert isinstance(answer, RolledBack)
    assert isinstance(answer.error, SerializationError)
    assert deed.calls == 1
    assert await mine(owned) == []


async def test_the_lease_survives_one_long_function_after_the_other(store: OpenStore, clock: SteppingClock) -> None:
    pulse = await register(store)
    await start(store, "e")
    left: list[float] = []

    def take_long(seconds: float) -> None:
        clock.skip(seconds)
        left.append(pulse.lease_until - clock.uptime())
        raise LookupError

    # The second one begins right after its lease has come due, before the store looks again.
    for pause, seconds in [(0, 4.99), (0.02, 5), (0, 5), (0, 5)]:
        clock.skip(pause)
        deed = Deed()
        deed.fn = lambda _, seconds=seconds: take_long(seconds)
        assert isinstance(await store.transact_step("w", deed), RolledBack)

    assert len(left) == 4
    assert min(left) > 0, left


# In the user's own transaction


async def test_a_transaction_in_memory_cannot_be_anybody_elses(clock: SteppingClock) -> None:
    async with open_store("sqlite://", clock=clock) as store:
        with contextlib.closing(sqlite3.connect(":memory:")) as other, pytest.raises(InvalidInputError):
            store.enlist(other, [Triggered(new())])


async def test_each_client_transition_is_answered_in_the_users_transaction(
    file_url: str, clock: SteppingClock, tmp_path: Path
) -> None:
    async with open_store(file_url, clock=clock) as store:
        await apply(store, Triggered(new("there", request="r1")), by=None)
        event = EventSent("fresh", "paid", "1", "i", NOW)
        with contextlib.closing(sqlite3.connect(tmp_path / "test.db")) as user:
            verdicts = store.enlist(
                user,
                [
                    Triggered(new("fresh")),
                    Triggered(new("there", request="r2")),
                    TriggeredMany((new("one", request="r3"), new("there", request="r3"))),
                    event,
                    EventSent("nobody", "paid", "1", "i", NOW),
                ],
            )
            assert verdicts == [None, Exists("there", same=True), Exists("there", same=True), None, Unknown("nobody")]
            assert await store.execution("fresh") is None
            user.commit()

        assert (await get(store, "fresh")).status == "queued"
        assert await store.execution("one") is None
        assert await store.arrived([("fresh", "paid")]) == [("fresh", "paid")]


async def test_a_transition_that_cannot_be_stored_leaves_the_transaction_as_it_was(
    file_url: str, clock: SteppingClock, tmp_path: Path
) -> None:
    async with open_store(file_url, clock=clock) as store:
        with contextlib.closing(sqlite3.connect(tmp_path / "test.db")) as user:
            user.execute("CREATE TABLE mine (n)")
            user.execute("INSERT INTO mine VALUES (1)")
            [verdict] = store.enlist(user, [Triggered(new("bad", input="\ud800", tags=("t",)))])
            assert isinstance(verdict, Exception)
            user.commit()
            assert user.execute("SELECT COUNT(*) FROM mine").fetchone() == (1,)
        assert await store.execution("bad") is None


async def test_the_lock_is_taken_before_anything_is_read(file_url: str, clock: SteppingClock, tmp_path: Path) -> None:
    """A deferred transaction that has read nothing yet can still be enlisted after others have committed."""
    async with open_store(file_url, clock=clock) as store:
        with contextlib.closing(sqlite3.connect(tmp_path / "test.db", isolation_level=None)) as user:
            user.execute("BEGIN")
            await apply(store, Triggered(new("other")), by=None)
            assert store.enlist(user, [Triggered(new("e", request="r"))]) == [None]
            user.execute("COMMIT")
        assert await store.execution("e") is not None
