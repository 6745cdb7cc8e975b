"""The proof must notice each thing that must never happen: true evidence passes, and one lie in it does not."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ledger import Body, Line, Reader, digest, parse
from proof import Evidence, History, Kill, prove
from shop import DECLINED_CARD, Address, Item, Order, Payment, Receipt, carrier_timeouts, total_of

from stepwell import AttemptInfo, ErrorInfo, ExecutionInfo, StepInfo

START = datetime(2026, 1, 1, tzinfo=UTC)
KILLED, RESTARTED = 10.0, 10.5
KILLED_AGAIN, RESTARTED_AGAIN = 14.0, 14.5
FIRST, SECOND, THIRD = 101, 102, 103


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def us(seconds: float) -> int:
    return round(at(seconds).timestamp() * 1_000_000)


def order(number: int, *, card: str = "tok_visa", items: int = 1) -> Order:
    basket = tuple(Item(sku="MUG", name="Becher", quantity=2, unit_price="12.90") for _ in range(items))
    address = Address(street="Königstraße 1", postcode="80331", city="München", country="DE")
    return Order(
        id=f"order-{number:04}",
        customer="佐藤",
        email="a@b.example",
        address=address,
        currency="EUR",
        card=card,
        note=None,
        items=basket,
    )


def step(path: str, began: float, ended: float | None, output: object = None, **changes: object) -> StepInfo:
    known = StepInfo(
        path=path,
        name=path.rpartition("/")[2],
        kind="sleep" if path == "fraud-check" else "run",
        status="completed" if ended is not None else "sleeping",
        attempt=1,
        input=None,
        output=output,
        error=None,
        flag=None,
        started_at=at(began),
        finished_at=None if ended is None else at(ended),
        wake_at=None,
        awaits=None,
        attempts=(),
    )
    return replace(known, **changes)


def info(id: str, status: str, output: object = None, error: str | None = None) -> ExecutionInfo:
    return ExecutionInfo(
        id=id,
        workflow="order_processing",
        status=status,  # pyright: ignore[reportArgumentType] - one of the literals
        output=output,
        error=None if error is None else ErrorInfo(type=error, message="no", traceback=""),
        run_number=1,
        version=None,
        tags=(),
        parent_id=None,
        created_at=START,
        started_at=START,
        finished_at=at(30),
        wake_at=None,
        waiting_for=None,
        reason=None,
        priority=0,
    )


def body(id: str, path: str, began: float, ended: float | None, result: object = None, **changes: object) -> Body:
    known = Body(
        pid=FIRST if began < KILLED else SECOND if began < KILLED_AGAIN else THIRD,
        execution=id,
        path=path,
        attempt=1,
        began_us=us(began),
        ended_us=None if ended is None else us(ended),
        hash=None if ended is None else digest(result),
    )
    return replace(known, **changes)


def good_one(wanted: Order) -> tuple[History, list[Body], History]:
    """An order whose charge was cut off by the kill, and which was then asleep across a second one."""
    payment = {"id": f"pay_{wanted.id}", "amount": total_of(wanted), "currency": "EUR"}
    parcel = {"tracking": f"T{wanted.id}", "label": "x"}
    mail = f"<{wanted.id}@shop.example>"
    failures = carrier_timeouts(wanted.id)
    attempts = tuple(
        AttemptInfo(
            attempt=n,
            error=ErrorInfo(type="shop.CarrierTimeoutError", message="", traceback=""),
            started_at=at(18 + n),
            finished_at=at(18.2 + n),
            worker=None,
        )
        for n in range(1, failures + 1)
    )
    validated = step("validate", 9.0, 9.1, total_of(wanted))
    steps = [
        validated,
        step("charge", 10.6, 10.9, payment),
        step("fraud-check", 11.0, 17.0),
        step("fulfil", 22.0, 22.3, parcel, attempt=failures + 1, attempts=attempts),
        step("e-mail", 23.0, 23.1, mail),
    ]
    bodies = [
        body(wanted.id, "validate", 9.0, 9.1, total_of(wanted)),
        body(wanted.id, "charge", 9.5, None),
        body(wanted.id, "charge", 10.6, 10.9, payment),
        *(body(wanted.id, "fulfil", 18 + n, 18.2 + n, hash=None, attempt=n) for n in range(1, failures + 1)),
        body(wanted.id, "fulfil", 22.0, 22.3, parcel, attempt=failures + 1),
        body(wanted.id, "e-mail", 23.0, 23.1, mail),
    ]
    receipt = Receipt(
        order_id=wanted.id,
        payment_id=str(payment["id"]),
        tracking=str(parcel["tracking"]),
        total=total_of(wanted),
        message_id=mail,
    )
    before = History(info=info(wanted.id, "running"), steps=[validated])
    return History(info=info(wanted.id, "completed", receipt), steps=steps), bodies, before


def bad_one(wanted: Order, error: str, path: str) -> tuple[History, list[Body]]:
    """An order that fails, whose release was cut off by the second kill."""
    release = "#on_error/release-stock"
    steps = [step(path, 13.2, 13.3, status="failed"), step(release, 15.0, 15.1, 2)]
    bodies = [
        body(wanted.id, path, 13.2, 13.3, hash=None),
        body(wanted.id, release, 13.9, None),
        body(wanted.id, release, 15.0, 15.1, 2),
    ]
    if path == "charge":
        steps.insert(0, step("validate", 13.0, 13.1, "1"))
        bodies.insert(0, body(wanted.id, "validate", 13.0, 13.1, "1"))
    return History(info=info(wanted.id, "failed", error=error), steps=steps), bodies


def kill(pid: int, killed: float, restarted: float, unfinished: dict[str, History], bodies: list[Body]) -> Kill:
    cut = [b for b in bodies if b.pid == pid and b.ended_us is None]
    return Kill(pid=pid, killed_us=us(killed), restarted_us=us(restarted), unfinished=unfinished, interrupted=cut)


def evidence() -> Evidence:
    orders = [order(n) for n in range(1, 26)]
    histories: dict[str, History] = {}
    bodies: list[Body] = []
    unfinished: dict[str, History] = {}
    asleep: dict[str, History] = {}
    for wanted in orders:
        history, ran, before = good_one(wanted)
        histories[wanted.id], unfinished[wanted.id] = history, before
        bodies += ran
        pending = step("fraud-check", 11.0, None, wake_at=at(17))
        asleep[wanted.id] = History(info=info(wanted.id, "running"), steps=[*history.steps[:2], pending])
    declined, empty = order(90, card=DECLINED_CARD), order(91, items=0)
    histories[declined.id], ran = bad_one(declined, "shop.CardDeclinedError", "charge")
    bodies += ran
    histories[empty.id], ran = bad_one(empty, "shop.InvalidOrderError", "validate")
    bodies += ran
    kills = [
        kill(FIRST, KILLED, RESTARTED, unfinished, bodies),
        kill(SECOND, KILLED_AGAIN, RESTARTED_AGAIN, asleep, bodies),
    ]
    known = {wanted.id: wanted for wanted in [*orders, declined, empty]}
    return Evidence(orders=known, histories=histories, bodies=sorted(bodies, key=lambda b: b.began_us), kills=kills)


def problems(found: Evidence) -> list[str]:
    return [problem for check in prove(found) for problem in check.problems]


def with_history(found: Evidence, id: str, change: Callable[[History], History | None]) -> Evidence:
    histories = dict(found.histories)
    changed = change(histories.pop(id))
    return replace(found, histories=histories if changed is None else {**histories, id: changed})


def with_step(found: Evidence, id: str, path: str, **changes: object) -> Evidence:
    def change(history: History) -> History:
        steps = [replace(s, **changes) if s.path == path else s for s in history.steps]
        return replace(history, steps=steps)

    return with_history(found, id, change)


def with_bodies(found: Evidence, bodies: Sequence[Body]) -> Evidence:
    return replace(found, bodies=sorted(bodies, key=lambda b: b.began_us))


ID = "order-0003"
MAIL = body(ID, "e-mail", 23.5, 23.6, f"<{ID}@shop.example>")
LIES: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "lost": (lambda e: with_history(e, ID, lambda _: None), "is not in the database"),
    "stuck": (lambda e: with_history(e, ID, lambda h: replace(h, info=info(ID, "running"))), "not completed"),
    "failed": (
        lambda e: with_history(e, ID, lambda h: replace(h, info=info(ID, "failed", error="shop.CardDeclinedError"))),
        "without a reason",
    ),
    "other receipt": (
        lambda e: with_history(
            e, ID, lambda h: replace(h, info=replace(h.info, output=replace(h.info.output, total="1")))
        ),
        "a receipt for",
    ),
    "declined but paid": (
        lambda e: with_history(e, "order-0090", lambda h: replace(h, info=info("order-0090", "completed"))),
        "not failed with shop.CardDeclinedError",
    ),
    "no e-mail": (lambda e: with_history(e, ID, lambda h: replace(h, steps=h.steps[:-1])), "recorded validate"),
    "second e-mail": (lambda e: with_bodies(e, [*e.bodies, MAIL]), "after its record"),
    "ran twice": (
        lambda e: with_bodies(e, [*e.bodies, replace(MAIL, began_us=us(22.9), ended_us=None, hash=None)]),
        "without a kill in between",
    ),
    "ran unrecorded": (lambda e: with_bodies(e, [*e.bodies, replace(MAIL, attempt=2)]), "is not in the history"),
    "recorded unrun": (
        lambda e: with_bodies(e, [b for b in e.bodies if (b.execution, b.path) != (ID, "e-mail")]),
        "never ran",
    ),
    "cut off for ever": (
        lambda e: with_bodies(e, [b for b in e.bodies if (b.execution, b.path, b.pid) != (ID, "charge", SECOND)]),
        "was cut off and never ran again",
    ),
    "changed result": (lambda e: with_step(e, ID, "charge", output={"id": "pay_other"}), "something else"),
    "changed record": (lambda e: with_step(e, ID, "validate", finished_at=at(9.2)), "has changed since the kill"),
    "woke early": (lambda e: with_step(e, ID, "fraud-check", finished_at=at(16.9)), "before its time"),
    "began anew": (lambda e: with_step(e, ID, "fraud-check", started_at=at(14.6)), "and again at"),
    "slept again": (lambda e: with_step(e, ID, "fraud-check", finished_at=at(20.6)), "was slept again"),
    "not held back": (
        lambda e: with_bodies(e, [*e.bodies, body(ID, "fulfil", 16.0, 16.1, hash=None, attempt=7)]),
        "did not hold back",
    ),
    "forgotten attempt": (lambda e: with_step(e, ID, "fulfil", attempt=5), "fulfil failed at"),
    "one kill": (lambda e: replace(e, kills=e.kills[:1]), "2 are needed"),
}


def test_true_evidence_passes() -> None:
    assert problems(evidence()) == []


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_noticed(lie: str) -> None:
    change, message = LIES[lie]

    found = problems(change(evidence()))

    assert any(message in problem for problem in found), found


def test_a_payment_for_two_orders_is_noticed() -> None:
    found = evidence()
    receipt = found.histories["order-0001"].info.output

    stolen = with_history(found, ID, lambda h: replace(h, info=replace(h.info, output=receipt)))

    assert any("was used by" in problem for problem in problems(stolen))


def test_a_digest_is_the_same_before_and_after_json() -> None:
    payment = Payment(id="pay_é", amount="12.90", currency="JPY")

    stored = json.loads(json.dumps({"currency": "JPY", "id": "pay_é", "amount": "12.90"}))

    assert digest(payment) == digest(stored)


def line(event: str, *, pid: int = FIRST, path: str = "charge") -> bytes:
    entry = Line(event=event, pid=pid, execution=ID, path=path, attempt=1, hash=None, error=None, time_us=1)
    return json.dumps({name: getattr(entry, name) for name in Line.__slots__}).encode() + b"\n"


def test_a_body_without_an_end_is_open(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(line("begin") + line("begin", path="e-mail") + line("end"))

    reader = Reader(file)
    reader.read()

    assert [body.path for body in reader.open_bodies(FIRST)] == ["e-mail"]


def test_a_half_written_line_waits_for_its_rest(tmp_path: Path) -> None:
    file, whole = tmp_path / "ledger.jsonl", line("begin")
    file.write_bytes(whole[:20])
    reader = Reader(file)
    reader.read()

    file.write_bytes(whole)
    reader.read()

    assert len(reader.bodies) == 1


def test_a_line_cut_off_by_a_kill_spoils_no_other() -> None:
    content = line("begin")[:30] + b"\n" + line("begin", pid=SECOND)

    assert [entry.pid for entry in parse(content)] == [SECOND]
