"""How to test undos: let a step fail, crash in between, and look at what was undone."""

from pathlib import Path

import pytest
import trip
from trip import Booking, Trip, app, travel

from stepwell import ExecutionFailedError, current_step
from stepwell.testing import sandbox


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test writes."""
    monkeypatch.setattr(trip, "FOLDER", tmp_path)
    return tmp_path


async def test_a_whole_trip_is_booked() -> None:
    async with sandbox(app):
        execution = await travel.trigger(Trip("ada", "Rome"))

        assert [booking.what for booking in await execution.result()] == ["flight", "hotel", "car"]


async def test_without_a_car_all_is_cancelled_in_reverse_order(folder: Path) -> None:
    async with sandbox(app):
        execution = await travel.trigger(Trip("ada", "Venice"))

        with pytest.raises(ExecutionFailedError, match="no cars in Venice"):
            await execution.result()

    log = (folder / "bookings.log").read_text().splitlines()
    deeds = [line.partition(":")[0] for line in log]
    assert deeds == ["book flight", "book hotel", "cancel hotel", "cancel flight", "tell ada"]


async def test_a_crash_while_the_hotel_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel(booking: Booking) -> None:
        if booking.what == "hotel" and current_step().attempt == 1:
            raise ConnectionError("no answer")
        trip.write(f"cancel {booking.what}")

    monkeypatch.setattr(trip, "cancel", cancel)
    async with sandbox(app) as tester:
        execution = await travel.trigger(Trip("ada", "Venice"))
        await tester.settle()
        await tester.crash()
        await tester.advance("1 minute")

        steps = {step.path: step for step in await execution.steps()}
        assert [path for path, step in steps.items() if step.undone] == ["flight", "hotel"]
        assert steps["#undo/hotel"].attempt == 2
    log = (folder / "bookings.log").read_text().splitlines()
    assert log[2:-1] == ["cancel hotel", "cancel flight"]
