"""`SystemClock` and `ManualClock`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from stepwell.clock import ManualClock, SystemClock, from_us, to_us

START = to_us(datetime(2030, 1, 1, tzinfo=UTC))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_manual_clock_stands_still() -> None:
    clock = ManualClock()

    assert clock.now() == START
    assert ManualClock(datetime(2000, 1, 1, tzinfo=UTC)).now() == 946_684_800_000_000


def test_due_timers_run_in_order_of_time_then_of_setting() -> None:
    clock, rung = ManualClock(), list[tuple[str, int]]()
    for name, after in [("c", 30), ("a", 10), ("b1", 20), ("b2", 20)]:
        clock.call_at(START + after, lambda name=name: rung.append((name, clock.now() - START)))

    clock.move_to(START + 25)
    assert rung == [("a", 10), ("b1", 20), ("b2", 20)]
    assert clock.now() == START + 25
    clock.move_to(START + 30)
    assert rung[3:] == [("c", 30)]


def test_a_timer_may_set_another_that_is_due_in_the_same_move() -> None:
    clock, rung = ManualClock(), list[int]()

    def again() -> None:
        rung.append(clock.now() - START)
        if len(rung) < 5:
            clock.call_at(clock.now() + 10, again)

    clock.call_at(START + 10, again)
    clock.move_to(START + 35)

    assert rung == [10, 20, 30]


def test_cancelled_timers_do_not_ring() -> None:
    clock, rung = ManualClock(), list[str]()
    first = clock.call_at(START + 1, lambda: rung.append("first"))
    second = clock.call_at(START + 2, lambda: rung.append("second"))

    first.cancel()
    first.cancel()
    clock.move_to(START + 5)
    second.cancel()

    assert rung == ["second"]


def test_next_at_is_the_first_timer_that_was_not_cancelled() -> None:
    clock = ManualClock()
    assert clock.next_at() is None
    first = clock.call_at(START + 1, lambda: None)
    clock.call_at(START + 2, lambda: None)

    assert clock.next_at() == START + 1
    first.cancel()
    assert clock.next_at() == START + 2


def test_a_manual_clock_never_goes_back() -> None:
    clock = ManualClock()

    clock.move_to(START - 1000)

    assert clock.now() == START


@pytest.mark.anyio
async def test_a_manual_timer_of_the_past_rings_at_once_but_not_inside_the_call() -> None:
    clock, rung = ManualClock(), asyncio.Event()

    clock.call_at(START - 5, rung.set)

    assert not rung.is_set()
    await asyncio.wait_for(rung.wait(), 1)


@pytest.mark.anyio
async def test_a_manual_timer_of_the_past_can_be_cancelled() -> None:
    clock, rung = ManualClock(), list[str]()

    clock.call_at(START, lambda: rung.append("rung")).cancel()
    for _ in range(3):
        await asyncio.sleep(0)

    assert rung == []


def test_uptime_of_a_manual_clock_does_not_jump() -> None:
    clock = ManualClock()
    before = clock.uptime()

    clock.move_to(START + 10**12)

    assert clock.uptime() - before < 10**8


def test_the_system_clock_tells_wall_time_and_uptime_in_microseconds() -> None:
    clock = SystemClock()

    assert abs(clock.now() - time.time() * 1_000_000) < 10_000_000
    first = clock.uptime()
    assert clock.uptime() >= first


@pytest.mark.anyio
async def test_system_timers_never_ring_early() -> None:
    clock = SystemClock()
    loop = asyncio.get_running_loop()
    early: list[int] = []
    futures: list[asyncio.Future[None]] = []
    for number in range(200):
        future: asyncio.Future[None] = loop.create_future()
        when = clock.now() + number * 137

        def ring(when: int = when, future: asyncio.Future[None] = future) -> None:
            early.append(when - clock.now())
            future.set_result(None)

        clock.call_at(when, ring)
        futures.append(future)
    await asyncio.gather(*futures)

    assert len(early) == 200
    assert max(early) <= 0


@pytest.mark.anyio
async def test_a_system_timer_waits_on_when_the_wall_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rung = SystemClock(), asyncio.Event()
    offset = 0
    monkeypatch.setattr(clock, "now", lambda: time.time_ns() // 1000 - offset)

    clock.call_at(clock.now() + 20_000, rung.set)
    offset = 60_000
    began = time.monotonic()
    await rung.wait()

    assert time.monotonic() - began >= 0.07


@pytest.mark.anyio
async def test_a_cancelled_system_timer_does_not_ring() -> None:
    clock, rung, later = SystemClock(), list[str](), asyncio.Event()

    timer = clock.call_at(clock.now() + 1000, lambda: rung.append("rung"))
    clock.call_at(clock.now() + 20_000, later.set)
    timer.cancel()
    timer.cancel()
    await later.wait()

    assert rung == []


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2030, 5, 6, 7, 8, 9, 123456, tzinfo=UTC),
        datetime(1900, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    ],
)
def test_moments_keep_each_microsecond(moment: datetime) -> None:
    assert from_us(to_us(moment)) == moment
    assert from_us(to_us(moment)).tzinfo is UTC
