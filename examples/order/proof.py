"""What must be true after the kills, checked against the orders, the ledger and the database. No input, no output.

The ledger knows when bodies ran, the database what was recorded. A body that was cut off, or whose result had not
reached the disk, runs again: that is right. A body that begins after its result was recorded must never be seen.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Final, TypeAlias

from ledger import Body, digest
from shop import DECLINED_CARD, Order, Receipt, carrier_timeouts, total_of

from stepwell import ExecutionInfo, StepInfo

ORDER_STEPS: Final = ("validate", "charge", "fraud-check", "fulfil", "e-mail")
RELEASE_STEP: Final = "#on_error/release-stock"
Place: TypeAlias = tuple[str, str, int]
"""Execution, path and attempt."""

LEAST_KILLS: Final = 2
LEAST_IN_FLIGHT: Final = 20
_LONG_US: Final = 5_000_000
_WELL_ASLEEP_US: Final = 2_000_000
"""A long sleep that had lasted so long when the worker came back would show clearly if it began anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the database says of one execution."""

    info: ExecutionInfo
    steps: Sequence[StepInfo]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A SIGKILL, and what database and ledger said right after it, before another worker lived."""

    pid: int
    killed_us: int
    restarted_us: int
    unfinished: Mapping[str, History]
    interrupted: Sequence[Body]

    @property
    def in_flight(self) -> list[str]:
        """The executions that were running and had recorded at least one step."""
        running = {id: history for id, history in self.unfinished.items() if history.info.status == "running"}
        return [id for id, history in running.items() if _recorded(history)]

    @property
    def asleep(self) -> dict[tuple[str, str], StepInfo]:
        """The sleeps that were pending."""
        return {
            (id, step.path): step
            for id, history in self.unfinished.items()
            for step in history.steps
            if step.kind == "sleep" and step.status == "sleeping"
        }

    @property
    def is_good(self) -> bool:
        """Whether it hit hard enough to prove something."""
        return len(self.in_flight) >= LEAST_IN_FLIGHT and len(self.interrupted) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that there is to judge by."""

    orders: Mapping[str, Order]
    histories: Mapping[str, History]
    bodies: Sequence[Body]
    kills: Sequence[Kill]


@dataclass(slots=True, kw_only=True)
class Check:
    """One claim, what was seen, and what speaks against it."""

    claim: str
    seen: str = ""
    problems: list[str] = field(default_factory=list[str])

    @property
    def is_true(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.problems


def prove(evidence: Evidence) -> list[Check]:
    """Check everything."""
    return [check(evidence) for check in CHECKS]


# ------------------------------------------------------------------------------------------------------ how it ended


def check_triggered(evidence: Evidence) -> Check:
    check = Check(claim="orders triggered, none lost", seen=f"{len(evidence.histories)}")
    check.problems += [f"{id} is not in the database" for id in evidence.orders if id not in evidence.histories]
    check.problems += [f"{id} was never triggered" for id in evidence.histories if id not in evidence.orders]
    return check


def check_completed(evidence: Evidence) -> Check:
    good = [order for order in evidence.orders.values() if expected_error(order) is None]
    completed = [id for id, history in evidence.histories.items() if history.info.status == "completed"]
    check = Check(claim="completed, with the right receipt", seen=f"{len(completed)} of {len(good)}")
    for order in good:
        history = evidence.histories.get(order.id)
        if history is None or history.info.status != "completed":
            check.problems.append(f"{order.id} is {_status(history)}, not completed")
        elif (problem := _wrong_receipt(order, history)) is not None:
            check.problems.append(f"{order.id} completed with {problem}")
    return check


def check_declined(evidence: Evidence) -> Check:
    return _check_failed(evidence, "failed as they must: card declined", "shop.CardDeclinedError")


def check_empty(evidence: Evidence) -> Check:
    return _check_failed(evidence, "failed as they must: empty basket", "shop.InvalidOrderError")


def _check_failed(evidence: Evidence, claim: str, error: str) -> Check:
    expected = [order.id for order in evidence.orders.values() if expected_error(order) == error]
    failed = {id for id, history in evidence.histories.items() if _error_type(history) == error}
    check = Check(claim=claim, seen=f"{len(failed)} of {len(expected)}")
    for id in expected:
        history = evidence.histories.get(id)
        if history is None or history.info.status != "failed" or id not in failed:
            check.problems.append(f"{id} is {_status(history)}, not failed with {error}")
    check.problems += [f"{id} failed with {error} without a reason" for id in failed.difference(expected)]
    return check


def check_steps(evidence: Evidence) -> Check:
    """The history of each execution has exactly the steps that its order calls for."""
    check = Check(claim="one payment, parcel and e-mail per order")
    payments: defaultdict[str, list[str]] = defaultdict(list)
    for id, history in evidence.histories.items():
        recorded = [(step.path, step.status) for step in history.steps]
        if id in evidence.orders and recorded != (expected := expected_steps(evidence.orders[id])):
            check.problems.append(f"{id} recorded {_pairs(recorded)}, not {_pairs(expected)}")
        output = history.info.output
        if isinstance(output, Receipt):
            payments[output.payment_id].append(id)
    check.problems += [f"payment {payment} was used by {ids}" for payment, ids in payments.items() if len(ids) > 1]
    check.seen = f"{len(payments)} payments"
    return check


# --------------------------------------------------------------------------------------------------- what survived


def check_kills(evidence: Evidence) -> Check:
    kills = [kill for kill in evidence.kills if kill.is_good]
    check = Check(claim="in flight when killed with SIGKILL", seen=" + ".join(str(len(k.in_flight)) for k in kills))
    if len(kills) < LEAST_KILLS:
        check.problems.append(
            f"{len(kills)} kills met {LEAST_IN_FLIGHT} executions in flight and an open body, {LEAST_KILLS} are needed"
        )
    return check


def check_resumed(evidence: Evidence) -> Check:
    """What had begun when the worker was killed has ended as it should."""
    hit = {id for kill in evidence.kills for id, history in kill.unfinished.items() if _recorded(history)}
    lost = [id for id in hit if not _ended_well(evidence, id)]
    check = Check(claim="resumed in the middle and ended well", seen=f"{len(hit) - len(lost)} of {len(hit)}")
    check.problems += [f"{id} did not survive a kill: {_status(evidence.histories.get(id))}" for id in sorted(lost)]
    return check


def check_interrupted(evidence: Evidence) -> Check:
    """Whatever was cut off began again as the same attempt, once another worker lived."""
    cut = [(kill, body) for kill in evidence.kills for body in kill.interrupted]
    check = Check(claim="bodies cut off by a kill and run again")
    for kill, body in cut:
        again = [b for b in evidence.bodies if _place(b) == _place(body) and b.began_us > kill.killed_us]
        if not again:
            check.problems.append(f"{_name(body)} was cut off and never ran again")
    check.seen = f"{len(cut) - len(check.problems)} of {len(cut)}"
    return check


def check_sleeps(evidence: Evidence) -> Check:
    """A pending sleep keeps its start and its end, whatever happens to the process."""
    pending: defaultdict[tuple[str, str], list[tuple[Kill, StepInfo]]] = defaultdict(list)
    for kill in evidence.kills:
        for place, before in kill.asleep.items():
            pending[place].append((kill, before))
    check = Check(claim="sleeps across a kill, neither cut nor begun anew", seen=str(len(pending)))
    for (id, path), seen in pending.items():
        check.problems += [f"{id}: {path} {problem}" for problem in _sleep_problems(evidence, id, seen)]
    return check


def _sleep_problems(evidence: Evidence, id: str, seen: Sequence[tuple[Kill, StepInfo]]) -> Iterator[str]:
    last_kill, before = seen[-1]
    after = _step(evidence.histories.get(id), before.path)
    if after is None or after.finished_at is None or before.wake_at is None:
        yield "never ended"
        return
    if any(known.wake_at != before.wake_at for _, known in seen):
        yield "got another end at a kill"
    if after.started_at != before.started_at:
        yield f"began at {before.started_at}, and again at {after.started_at}"
    if after.finished_at < before.wake_at:
        yield f"woke at {after.finished_at}, before its time {before.wake_at}"
    if any(
        _us(before.started_at) < body.began_us < _us(before.wake_at) for body in evidence.bodies if body.execution == id
    ):
        yield f"did not hold back the next step until {before.wake_at}"
    if _was_slept_again(before, last_kill.restarted_us, after.finished_at):
        yield f"was slept again after the kill: it ended at {after.finished_at} instead of {before.wake_at}"


def _was_slept_again(before: StepInfo, restarted_us: int, finished_at: datetime) -> bool:
    """Whether it took its whole length once more after the restart. Of short ones a busy machine could be suspected."""
    began_us, length_us = _us(before.started_at), _us(before.wake_at or finished_at) - _us(before.started_at)
    was_well_asleep = length_us >= _LONG_US and restarted_us - began_us >= _WELL_ASLEEP_US
    return was_well_asleep and _us(finished_at) >= restarted_us + length_us


def check_retries(evidence: Evidence) -> Check:
    """The carrier fails by plan, so the number of failed attempts is known for each order."""
    check = Check(claim="failed attempts, each counted and tried again")
    total = 0
    for id, history in evidence.histories.items():
        step = _step(history, "fulfil")
        if step is None:
            continue
        failed, planned = [attempt.attempt for attempt in step.attempts], carrier_timeouts(id)
        total += len(failed)
        if failed != list(range(1, planned + 1)) or step.attempt != planned + 1:
            check.problems.append(f"{id}: fulfil failed at {failed} and ended at {step.attempt}, not {planned + 1}")
    check.seen = str(total)
    return check


# ------------------------------------------------------------------------------------------------- what never happened


def check_accounts(evidence: Evidence) -> Check:
    """Whatever ran is recorded or was lost to a kill, and nothing is recorded that did not run."""
    check = Check(claim="bodies begun = recorded + lost to kills")
    runs, recorded = _runs(evidence), _recorded_at(evidence)
    for place, bodies in runs.items():
        check.problems += _unexplained(bodies, evidence.kills)
        if place not in recorded:
            check.problems.append(f"{_name(bodies[0])} ran and is not in the history")
    for place in recorded.keys() - runs.keys():
        check.problems.append(f"{place} is recorded and never ran")
    begun, kept = len(evidence.bodies), len(recorded)
    check.seen = f"{begun} = {kept} + {begun - kept}"
    return check


def _unexplained(bodies: Sequence[Body], kills: Sequence[Kill]) -> Iterator[str]:
    """A second run of the same attempt needs a kill between the two."""
    for before, after in pairwise(bodies):
        killed = next((kill.killed_us for kill in kills if kill.pid == before.pid), None)
        if killed is None or not before.began_us <= killed <= after.began_us:
            yield f"{_name(after)} ran twice without a kill in between"


def check_once(evidence: Evidence) -> Check:
    """The heart of it: nothing that was recorded began again."""
    recorded = _recorded_at(evidence)
    late = [body for body in evidence.bodies if body.began_us > recorded.get(_place(body), body.began_us)]
    check = Check(claim="bodies begun again after being recorded", seen=str(len(late)))
    check.problems += [f"{_name(body)} began {_after(body, recorded[_place(body)])} after its record" for body in late]
    return check


def check_results(evidence: Evidence) -> Check:
    """What is recorded is what the last body returned, and what was recorded before a kill is still the same."""
    check = Check(claim="recorded results equal what bodies returned")
    returned = {(body.execution, body.path): body.hash for body in evidence.bodies if body.hash is not None}
    compared = 0
    for id, history in evidence.histories.items():
        for step in _completed_bodies(history):
            compared += 1
            if digest(step.output) != returned.get((id, step.path)):
                check.problems.append(f"{id}: {step.path} recorded something else than its body returned")
    for kill in evidence.kills:
        for id, history in kill.unfinished.items():
            check.problems += [
                f"{id}: {step.path} has changed since the kill of process {kill.pid}"
                for step in _completed_bodies(history)
                if not _same(step, _step(evidence.histories.get(id), step.path))
            ]
    check.seen = str(compared)
    return check


CHECKS: Final[Sequence[Callable[[Evidence], Check]]] = (
    check_triggered,
    check_completed,
    check_declined,
    check_empty,
    check_steps,
    check_kills,
    check_resumed,
    check_interrupted,
    check_sleeps,
    check_retries,
    check_results,
    check_accounts,
    check_once,
)


# ------------------------------------------------------------------------------------------------------ small words


def expected_error(order: Order) -> str | None:
    """The type of error with which this order must fail, or None."""
    if not order.items:
        return "shop.InvalidOrderError"
    return "shop.CardDeclinedError" if order.card == DECLINED_CARD else None


def expected_steps(order: Order) -> list[tuple[str, str]]:
    """The steps that this order's execution must record, with their statuses."""
    if (error := expected_error(order)) is None:
        return [(path, "completed") for path in ORDER_STEPS]
    done = [("validate", "completed"), ("charge", "failed")] if "Card" in error else [("validate", "failed")]
    return [*done, (RELEASE_STEP, "completed")]


def _wrong_receipt(order: Order, history: History) -> str | None:
    receipt = history.info.output
    if not isinstance(receipt, Receipt):
        return f"{receipt!r} instead of a receipt"
    if (receipt.order_id, receipt.total) != (order.id, total_of(order)):
        return f"a receipt for {receipt.order_id} over {receipt.total}"
    message = _step(history, "e-mail")
    return None if message is not None and message.output == receipt.message_id else "a receipt without its e-mail"


def _ended_well(evidence: Evidence, id: str) -> bool:
    if id not in evidence.orders or id not in evidence.histories:
        return False
    expected = expected_error(evidence.orders[id])
    history = evidence.histories[id]
    return history.info.status == ("failed" if expected else "completed") and _error_type(history) == expected


def _recorded(history: History) -> bool:
    return any(step.status == "completed" for step in history.steps)


def _runs(evidence: Evidence) -> dict[Place, list[Body]]:
    runs: defaultdict[Place, list[Body]] = defaultdict(list)
    for body in evidence.bodies:
        runs[_place(body)].append(body)
    return runs


def _recorded_at(evidence: Evidence) -> dict[Place, int]:
    """When each attempt was recorded, the failed ones, too."""
    recorded: dict[Place, int] = {}
    for id, history in evidence.histories.items():
        for step in history.steps:
            if step.kind == "sleep":
                continue
            ends = {attempt.attempt: attempt.finished_at for attempt in step.attempts}
            if step.finished_at is not None:
                ends[step.attempt] = step.finished_at
            recorded.update({(id, step.path, attempt): _us(at) for attempt, at in ends.items()})
    return recorded


def _completed_bodies(history: History) -> list[StepInfo]:
    return [step for step in history.steps if step.kind != "sleep" and step.status == "completed"]


def _same(before: StepInfo, after: StepInfo | None) -> bool:
    if after is None:
        return False
    return (before.status, before.attempt, before.output, before.finished_at) == (
        after.status,
        after.attempt,
        after.output,
        after.finished_at,
    )


def _step(history: History | None, path: str) -> StepInfo | None:
    return None if history is None else next((step for step in history.steps if step.path == path), None)


def _status(history: History | None) -> str:
    if history is None:
        return "missing"
    error = history.info.error
    return history.info.status if error is None else f"{history.info.status} with {error.type}: {error.message}"


def _error_type(history: History) -> str | None:
    return None if history.info.error is None else history.info.error.type


def _place(body: Body) -> Place:
    return body.execution, body.path, body.attempt


def _name(body: Body) -> str:
    return f"{body.execution}: {body.path}, attempt {body.attempt}, in process {body.pid},"


def _after(body: Body, recorded_us: int) -> str:
    return f"{(body.began_us - recorded_us) / 1000:.1f} ms"


def _pairs(steps: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{path} {status}" for path, status in steps) or "nothing"


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)
