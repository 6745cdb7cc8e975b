from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.duration import MAX_US, to_us
from stepwell.errors import InvalidInputError

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND


@pytest.mark.parametrize(
    ("value", "us"),
    [
        ("500 ms", 500_000),
        ("0.5 ms", 500),
        ("30 seconds", 30 * SECOND),
        ("1 second", SECOND),
        ("30s", 30 * SECOND),
        ("2 sec", 2 * SECOND),
        ("5 min", 5 * MINUTE),
        ("1 minute", MINUTE),
        ("10 minutes", 10 * MINUTE),
        ("3m", 3 * MINUTE),
        ("1h30m", HOUR + 30 * MINUTE),
        ("1 h 30 min", HOUR + 30 * MINUTE),
        ("1.5 hours", HOUR + 30 * MINUTE),
        ("1 hr", HOUR),
        ("1 day", DAY),
        ("2d", 2 * DAY),
        ("1 Week", 7 * DAY),
        ("2 weeks", 14 * DAY),
        ("  5 min ", 5 * MINUTE),
        ("0 s", 0),
        (0, 0),
        (5, 5 * SECOND),
        (0.25, 250_000),
        (1e-6, 1),
        (timedelta(days=1, microseconds=7), DAY + 7),
    ],
)
def test_a_duration_is_given_in_microseconds(value: Any, us: int) -> None:
    assert to_us(value) == us


WRONG: list[Any] = [
    "", " ", "5", "min", "5 lightyears", "5 min and more", "1h1h", "-5 s", "+5 s", "1e3 s", "٣ s", "5 us", "1..5 s", "s" * 200,
    True, False, None, float("nan"), float("inf"), -float("inf"), b"5 s", [5], 5j,
]  # fmt: skip


@pytest.mark.parametrize("value", WRONG)
def test_anything_else_is_refused_with_the_accepted_forms(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^pause must be a timedelta, .*'1h30m', got ") as caught:
        to_us(value, what="pause")
    assert isinstance(caught.value, ValueError)
    assert repr(value)[:50] in str(caught.value)


@pytest.mark.parametrize(
    ("value", "minimum", "problem"),
    [
        (-1, 0, r"must not be negative, got -1\.$"),
        (timedelta(seconds=-1), 0, "must not be negative"),
        (0, 1, r"must be positive, got 0\.$"),
        ("0 s", 1, r"must be positive, got '0 s'\.$"),
        ("1 s", 5 * SECOND, r"must be at least 5 s, got '1 s'\.$"),
    ],
)
def test_less_than_the_minimum_is_refused(value: Any, minimum: int, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        to_us(value, minimum=minimum)


def test_without_a_minimum_a_duration_may_be_negative() -> None:
    assert to_us(-1.5, minimum=None) == -1_500_000


@pytest.mark.parametrize(
    "value", ["10000 years", "600000 weeks", 10_000 * 365 * 86_400, 10**400, 1e308, timedelta.max, "9" * 90 + " s"]
)
def test_a_length_whose_end_has_no_date_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"5,000 years|accepted|must be a timedelta"):
        to_us(value)
    assert to_us("5000 d") < MAX_US


def test_a_hostile_value_does_not_break_the_message() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError

    for value in (Hostile(), 10**5000, "x" * 10_000):
        with pytest.raises(InvalidInputError) as caught:
            to_us(value)  # pyright: ignore[reportArgumentType]
        assert len(str(caught.value)) < 400


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=1_000_000)))
def test_a_timedelta_is_exact(value: timedelta) -> None:
    assert timedelta(microseconds=to_us(value)) == value


@given(st.integers(0, 10_000), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_text_adds_up(hours: int, minutes: int, seconds: int, ms: int) -> None:
    text = f"{hours}h{minutes}m {seconds} seconds {ms}ms"

    assert to_us(text) == hours * HOUR + minutes * MINUTE + seconds * SECOND + ms * 1000


@given(st.text(max_size=20))
def test_any_text_gives_a_number_or_an_invalid_input_error(text: str) -> None:
    try:
        us = to_us(text)
    except InvalidInputError:
        return
    assert us >= 0
