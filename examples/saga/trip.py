"""A trip is booked: flight, hotel, car. If one of them cannot be had, what was booked before is cancelled again."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stepwell import App, Step, current_step
from stepwell.errors import NonRetryableError

app = App("travel")

FOLDER: Final = Path(__file__).resolve().parent / ".stepwell"
SLOW: Final = os.environ.get("SLOW")
"""Who takes a minute for a cancellation, `hotel` say: time to kill the worker in the middle."""
WITHOUT_CARS: Final = ("Venice", "Hydra")


@dataclass(frozen=True)
class Trip:
    """Who travels, and where to."""

    traveller: str
    to: str


@dataclass(frozen=True)
class Booking:
    """What somebody has reserved for us."""

    what: str
    number: str


class NoCarError(NonRetryableError):
    """There are no cars there; asking again does not help."""


@app.workflow
async def travel(step: Step, trip: Trip) -> list[Booking]:
    """Book all that a trip needs, or nothing."""
    flight = await step.run("flight", book, "flight", trip, undo=cancel)
    hotel = await step.run("hotel", book, "hotel", trip, undo=cancel)
    car = await step.run("car", book, "car", trip, undo=cancel)
    return [flight, hotel, car]


@travel.on_error
async def apologise(step: Step, trip: Trip, error: BaseException) -> None:
    """Runs when everything is undone."""
    await step.run("apologise", write, f"tell {trip.traveller}: {error}")


# ------------------------------------------------------------------------------------- the world outside, as a file


def book(what: str, trip: Trip) -> Booking:
    """Reserve it. Its number comes from the step's key, so that a repeated request means the same booking."""
    if what == "car" and trip.to in WITHOUT_CARS:
        raise NoCarError(f"there are no cars in {trip.to}")
    booking = Booking(what, current_step().idempotency_key)
    write(f"book {what}: {booking.number}")
    return booking


def cancel(booking: Booking) -> None:
    """Cancel it. If this is cut off it runs again: cancelling what is cancelled does no harm."""
    write(f"cancel {booking.what}: {booking.number}")
    if booking.what == SLOW:
        time.sleep(60)


def write(line: str) -> None:
    """Append to the book of what was asked of others; the line is on disk when this returns."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "bookings.log").open("a") as log:
        log.write(f"{line}\n")
        log.flush()
        os.fsync(log.fileno())
