"""Ids, step names in paths, and what is derived from them."""

from __future__ import annotations

import random
import re
import uuid
from datetime import timedelta
from typing import Any

import pytest

from stepwell.clock import ManualClock, from_us
from stepwell.errors import InvalidInputError
from stepwell.ids import Ids, check_id, derived_random, derived_uuid, digest, quote_step_name, unquote_step_name


def make_ids(seed: int = 1) -> tuple[Ids, ManualClock]:
    clock = ManualClock()
    return Ids(clock, random.Random(seed)), clock


def test_ids_sort_in_the_order_in_which_they_were_made() -> None:
    ids, clock = make_ids()

    made: list[str] = []
    for _ in range(200):
        made += [ids.new() for _ in range(5)]
        clock.move_to(clock.now() + 700)

    assert made == sorted(set(made))


def test_ids_of_a_clock_that_goes_back_still_sort() -> None:
    ids, clock = make_ids()
    first = ids.new()

    clock._now -= 3_600_000_000
    second = ids.new()
    clock._now += 7_200_000_000

    assert first < second < ids.new()


def test_ids_of_several_processes_differ_and_sort_by_time() -> None:
    (one, first_clock), (other, other_clock) = make_ids(1), make_ids(2)
    other_clock.move_to(first_clock.now() + 1000)

    made = [one.new() for _ in range(100)]
    later = [other.new() for _ in range(100)]

    assert len({*made, *later}) == 200
    assert max(made) < min(later)


def test_ids_can_be_given_by_callers_too() -> None:
    ids, _ = make_ids()

    assert all(re.fullmatch("[0-9a-hjkmnp-tv-z]{26}", check_id(ids.new())) for _ in range(100))


def test_ids_are_those_of_their_seed() -> None:
    assert make_ids(7)[0].new() == make_ids(7)[0].new() != make_ids(8)[0].new()


def test_tokens_differ() -> None:
    ids, _ = make_ids()
    tokens = [ids.token() for _ in range(1000)]

    assert len(set(tokens)) == 1000
    assert {len(token) for token in tokens} == {24}


@pytest.mark.parametrize("value", ["a", "A-1", "x" * 128, "a:b.c_d-e", "..."])
def test_good_ids(value: str) -> None:
    assert check_id(value) == value


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a\n", "ä", "\u0661", "a/b", None, 5, True, b"a"])
def test_bad_ids_name_what_they_are(value: Any) -> None:
    with pytest.raises(
        InvalidInputError, match=r"A tag must be 1 to 128 characters of A-Z a-z 0-9 _ . : -, got "
    ) as refused:
        check_id(value, "A tag")

    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("name", ["charge", "charge a card", "größe", "日本", "x" * 200, "🙂", " "])
def test_ordinary_step_names_stand_as_they_are(name: str) -> None:
    assert quote_step_name(name) == name == unquote_step_name(name)


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("a/b", "a%2Fb"), ("#undo/x", "%23undo%2Fx"), ("100%", "100%25"), ("%2F", "%252F"), ("%23%", "%2523%25")],
)
def test_what_the_engine_uses_is_encoded_and_comes_back(name: str, quoted: str) -> None:
    assert quote_step_name(name) == quoted
    assert unquote_step_name(quoted) == name


def test_no_two_names_share_a_path() -> None:
    names = [a + b + c for a in "/#%2" for b in "/#%5" for c in "F3 5"]

    assert len({quote_step_name(name) for name in names}) == len(names)
    assert not any(re.search("[/#]", quote_step_name(name)) for name in names)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "\x00", "a\x7f", "\x9f", "\ud800", "\u2028", None, 5, b"a"])
def test_bad_step_names_are_refused_with_a_short_message(name: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^A step name must ") as refused:
        quote_step_name(name)

    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250


def test_digests_tell_all_parts_apart() -> None:
    assert digest("a", "b") == digest("a", "b")
    assert (
        len({digest("a", "b"), digest("b", "a"), digest("a", "bc"), digest("ab", "c"), digest("a", 1), digest("a", 2)})
        == 6
    )
    assert re.fullmatch("[a-z2-7]{26}", digest("a"))


def test_derived_uuids_are_version_8_and_repeat() -> None:
    made = derived_uuid("A-1", 1, "", "name")

    assert made == derived_uuid("A-1", 1, "", "name") != derived_uuid("A-1", 2, "", "name")
    assert (made.version, made.variant) == (8, uuid.RFC_4122)


def test_derived_numbers_lie_between_0_and_1_and_repeat() -> None:
    made = [derived_random("A-1", number) for number in range(2000)]

    assert made == [derived_random("A-1", number) for number in range(2000)]
    assert all(0 <= number < 1 for number in made)
    assert 0.45 < sum(made) / len(made) < 0.55
    assert len(set(made)) == 2000


def test_ids_carry_their_time() -> None:
    ids, clock = make_ids()
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    value = 0
    for character in ids.new():
        value = value * 32 + alphabet.index(character)

    assert abs(from_us((value >> 80) * 1000) - from_us(clock.now())) < timedelta(milliseconds=1)
