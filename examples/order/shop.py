"""A small shop: an order is checked, paid, watched for fraud, shipped and confirmed by e-mail.

Every body writes into the ledger when it begins and when it ends (see `ledger.py`). A real shop needs none of that:
it is how `demo.py` proves what ran, how often, and when.
"""

import asyncio
import hashlib
import random
import time
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import ledger

from stepwell import App, Step, current_step
from stepwell.errors import NonRetryableError

app = App("shop")

DECLINED_CARD: Final = "tok_chargeDeclined"
REVIEWED_FROM: Final = {"EUR": 500, "USD": 550, "GBP": 430, "JPY": 80_000, "SEK": 5_600, "NOK": 5_800, "PLN": 2_100}
"""Orders of this much or more are looked at for longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Some pieces of one article."""

    sku: str
    name: str
    quantity: int
    unit_price: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a parcel goes."""

    street: str
    postcode: str
    city: str
    country: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a customer wants."""

    id: str
    customer: str
    email: str
    address: Address
    currency: str
    card: str
    note: str | None
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """Money that the provider took."""

    id: str
    amount: str
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What the carrier took."""

    tracking: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What an order ends with."""

    order_id: str
    payment_id: str
    tracking: str
    total: str
    message_id: str


class InvalidOrderError(NonRetryableError):
    """The order cannot be taken as it is."""


class CardDeclinedError(NonRetryableError):
    """The bank says no, and will say so again."""


class CarrierTimeoutError(TimeoutError):
    """The carrier's API did not answer; it may do so next time."""


@app.workflow(retries=3)
async def order_processing(step: Step, order: Order) -> Receipt:
    """Take an order from the basket to the receipt."""
    total = await step.run("validate", validate, order)
    payment = await step.run("charge", charge, order, total, timeout="30 seconds")
    await step.sleep("fraud-check", fraud_check_seconds(order, total))
    parcel = await step.run("fulfil", fulfil, order, retries=5, retry_delay="300 ms", timeout="30 seconds")
    message_id = await step.run("e-mail", send_email, order, payment, parcel)
    return Receipt(
        order_id=order.id, payment_id=payment.id, tracking=parcel.tracking, total=total, message_id=message_id
    )


@order_processing.on_error
async def release(step: Step, order: Order, error: BaseException) -> None:
    """Put what was reserved back on the shelf."""
    await step.run("release-stock", release_stock, order)


async def validate(order: Order) -> str:
    """Check the order, reserve its articles, and give the total."""
    async with ledger.entry() as entry:
        await asyncio.sleep(random.uniform(0.03, 0.12))
        if not order.items:
            raise InvalidOrderError(f"Order {order.id} has an empty basket.")
        return entry.result(total_of(order))


async def charge(order: Order, total: str) -> Payment:
    """Take the money. The provider knows a repeated request by its key, and answers with the payment it made before."""
    async with ledger.entry() as entry:
        await asyncio.sleep(random.uniform(0.2, 0.6))
        if order.card == DECLINED_CARD:
            raise CardDeclinedError(f"The card of order {order.id} was declined.")
        payment_id = f"pay_{_token(current_step().idempotency_key)}"
        return entry.result(Payment(id=payment_id, amount=total, currency=order.currency))


async def fulfil(order: Order) -> Parcel:
    """Hand the parcel to the carrier, whose API is known to be slow at times."""
    async with ledger.entry() as entry:
        await asyncio.sleep(random.uniform(0.2, 0.6))
        if current_step().attempt <= carrier_timeouts(order.id):
            raise CarrierTimeoutError(f"The carrier did not answer for order {order.id}.")
        tracking = _token(current_step().idempotency_key).upper()
        return entry.result(Parcel(tracking=tracking, label=f"{order.customer}, {order.address.city}"))


def send_email(order: Order, payment: Payment, parcel: Parcel) -> str:
    """Send the confirmation; a plain function, it runs in a thread."""
    with ledger.entry() as entry:
        time.sleep(random.uniform(0.02, 0.08))
        return entry.result(f"<{uuid.uuid4()}@shop.example>")


async def release_stock(order: Order) -> int:
    """Give back the articles of an order that failed."""
    async with ledger.entry() as entry:
        await asyncio.sleep(random.uniform(0.02, 0.05))
        return entry.result(sum(item.quantity for item in order.items))


def total_of(order: Order) -> str:
    """The price of everything in the basket, as decimal text."""
    return str(sum((Decimal(item.unit_price) * item.quantity for item in order.items), start=Decimal(0)))


def fraud_check_seconds(order: Order, total: str) -> float:
    """How long to wait: a second, or six for much money. The longer wait leaves memory."""
    return 6.0 if Decimal(total) >= REVIEWED_FROM[order.currency] else 1.0


def carrier_timeouts(order_id: str) -> int:
    """How often the carrier does not answer for this order, so that everybody can know: mostly 0, sometimes 1 or 2."""
    chance = hashlib.sha256(order_id.encode()).digest()[0]
    return 2 if chance < 10 else 1 if chance < 50 else 0


def _token(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]
