"""An expense waits for its manager's decision; after three days of silence the director is asked, too.

While it waits, an execution takes no memory, and no worker needs to run: a decision that comes meanwhile is kept.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stepwell import App, EventTimeoutError, Step, current_step

app = App("expenses")

FOLDER: Final = Path(__file__).resolve().parent / ".stepwell"


@dataclass(frozen=True)
class Expense:
    """What somebody has spent for the company."""

    employee: str
    amount: int
    manager: str = "manager@example.org"
    director: str = "director@example.org"
    answer_within: str = "3 days"


@dataclass(frozen=True)
class Decision:
    """The payload of the event `decision`."""

    approved: bool
    by: str
    comment: str = ""


@dataclass(frozen=True)
class Outcome:
    """How it ended; without a payment it was refused."""

    decision: Decision
    payment: str | None


@app.workflow
async def reimbursement(step: Step, expense: Expense) -> Outcome:
    """Pay an expense back, or say why not."""
    decision = await decide(step, expense)
    payment = await step.run("pay", pay, expense) if decision.approved else None
    answer = f"Your expense {step.execution_id} {'is paid' if payment else 'was refused'}. {decision.comment}".rstrip()
    await step.run("tell", mail, expense.employee, answer)
    return Outcome(decision, payment)


async def decide(step: Step, expense: Expense) -> Decision:
    """Ask the manager, then the director. A late answer of the manager still counts: it is the same event."""
    question = f"{expense.employee} asks for {expense.amount} EUR ({step.execution_id}). Yes or no?"
    await step.run("ask-manager", mail, expense.manager, question)
    try:
        return await step.listen("manager", event="decision", timeout=expense.answer_within, returns=Decision)
    except EventTimeoutError:
        await step.run("ask-director", mail, expense.director, question)
        return await step.listen("director", event="decision", returns=Decision)


# ------------------------------------------------------------------------------------- the world outside, as files


def mail(to: str, text: str) -> None:
    """Send an e-mail."""
    write("outbox.log", f"{to}: {text}")


def pay(expense: Expense) -> str:
    """Transfer the money. A bank takes a key with the order, and does not transfer twice for one key."""
    payment = f"payment-{current_step().execution_id}"
    write("payments.log", f"{payment}: {expense.amount} EUR to {expense.employee} ({current_step().idempotency_key})")
    return payment


def write(file: str, line: str) -> None:
    """Append a line, which is on disk when this returns."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / file).open("a") as out:
        out.write(f"{line}\n")
        out.flush()
        os.fsync(out.fileno())
