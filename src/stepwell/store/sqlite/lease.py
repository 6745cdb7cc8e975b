"""The leases that the writer thread renews, and what it knows of other processes on the file."""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec
from msgspec import Struct

from stepwell.clock import Clock
from stepwell.store.protocol import Pulse
from stepwell.store.sqlite.connection import query

LEASE_US: Final = 15_000_000
RENEW_US: Final = 5_000_000
RETRY_US: Final = 1_000_000
"""When a renewal was refused by the pulse or failed, the next try follows after this."""


class _Lease(Struct):
    pulse: Pulse
    due: int


class Renewal(Struct, frozen=True):
    """What one transaction did to the leases; counts once it is committed."""

    until: int
    kept: tuple[str, ...]
    lost: tuple[str, ...]
    neighbours: bool


class Leases:
    """The workers of this store and when each has to be renewed, in `Clock.uptime()`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._leases: dict[str, _Lease] = {}

    def __bool__(self) -> bool:
        return bool(self._leases)

    def add(self, worker_id: str, pulse: Pulse) -> None:
        """Renew this worker's lease from now on; its row has just been written."""
        self._leases[worker_id] = _Lease(pulse, self._clock.uptime() + RENEW_US)
        pulse.renewed(self.until())

    def remove(self, worker_id: str) -> None:
        """Stop renewing."""
        self._leases.pop(worker_id, None)

    def until(self) -> int:
        """The end of a lease that is renewed now."""
        return self._clock.uptime() + LEASE_US

    def due(self) -> list[str]:
        """Whose lease has to be renewed now. One whose pulse does not beat is put off."""
        now = self._clock.uptime()
        due: list[str] = []
        for worker_id, lease in self._leases.items():
            if lease.due <= now:
                if lease.pulse.is_beating():
                    due.append(worker_id)
                else:
                    lease.due = now + RETRY_US
        return due

    def renew(self, connection: sqlite3.Connection, due: list[str]) -> Renewal:
        """Write the leases, inside a transaction of the caller."""
        kept: list[str] = []
        lost: list[str] = []
        until = self.until()
        for worker_id in due:
            found = renew_lease(connection, worker_id, until)
            (kept if found else lost).append(worker_id)
        own = msgspec.json.encode(list(self._leases)).decode()
        neighbours = connection.execute(
            query("worker_neighbours"), {"uptime": self._clock.uptime(), "own": own}
        ).fetchone()
        return Renewal(until, tuple(kept), tuple(lost), bool(neighbours[0]))

    def confirm(self, renewal: Renewal) -> None:
        """The transaction is committed."""
        for worker_id in renewal.kept:
            if worker_id in self._leases:
                self._leases[worker_id].due = self._clock.uptime() + RENEW_US
                self._leases[worker_id].pulse.renewed(renewal.until)
        for worker_id in renewal.lost:
            lease = self._leases.pop(worker_id, None)
            if lease is not None:
                lease.pulse.lost()

    def put_off(self, due: list[str]) -> None:
        """The transaction failed: try again soon."""
        for worker_id in due:
            if worker_id in self._leases:
                self._leases[worker_id].due = self._clock.uptime() + RETRY_US


def renew_lease(connection: sqlite3.Connection, worker_id: str, until: int) -> bool:
    """Prolong one lease; False when the worker's row is gone."""
    cursor = connection.execute(query("worker_renew"), {"worker_id": worker_id, "lease_until": until})
    return cursor.rowcount == 1
