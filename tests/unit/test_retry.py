import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.duration import MAX_US
from stepwell.errors import InvalidInputError
from stepwell.retry import RetryPolicy, resolve

SECOND = 1_000_000


def test_the_defaults_are_those_of_the_documentation() -> None:
    policy = RetryPolicy()

    assert (policy.retries, policy.backoff, policy.jitter, policy.retry_if) == (3, "exponential", 0.25, None)
    assert [policy.delay_us(attempt, 0) for attempt in (1, 2, 3, 4, 5, 6)] == [
        seconds * SECOND for seconds in (1, 2, 4, 8, 16, 30)
    ]


@pytest.mark.parametrize(
    ("backoff", "seconds"),
    [("exponential", [2, 4, 8, 16, 20, 20]), ("linear", [2, 4, 6, 8, 10, 12]), ("constant", [2] * 6)],
)
def test_the_delay_grows_as_asked_up_to_its_limit(backoff: Any, seconds: list[int]) -> None:
    policy = RetryPolicy(delay="2 seconds", backoff=backoff, max_delay=20)

    assert [policy.delay_us(attempt, 0) // SECOND for attempt in range(1, 7)] == seconds


@given(
    st.sampled_from(["exponential", "linear", "constant"]),
    st.integers(1, 10**6),
    st.floats(0, 1),
    st.floats(0, 0.25),
    st.sampled_from([0, 0.001, 1, "1 day", "4000 weeks"]),
)
def test_jitter_only_adds_and_at_most_its_share(
    backoff: Any, attempt: int, chance: float, jitter: float, delay: Any
) -> None:
    policy = RetryPolicy(delay=delay, backoff=backoff, max_delay="250000 weeks", jitter=jitter)

    plain = policy.delay_us(attempt, 0)

    assert 0 <= plain <= MAX_US
    most = plain * (1 + jitter) * (1 + 1e-12) + 1
    assert plain <= policy.delay_us(attempt, chance) <= most


def test_a_million_attempts_wait_no_longer_than_the_limit() -> None:
    assert RetryPolicy().delay_us(10**6, 1) == 37_500_000
    assert RetryPolicy(backoff="linear").delay_us(10**6, 0) == 30 * SECOND
    assert RetryPolicy(delay=0).delay_us(10**6, 1) == 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"retries": -1}, r"retries must be a whole number, 0 or more, got -1\."),
        ({"retries": True}, "got True"),
        ({"retries": 1.0}, "got 1.0"),
        ({"retries": "3"}, "got '3'"),
        ({"retries": None}, "got None"),
        ({"delay": -1}, "delay must not be negative, got -1"),
        ({"delay": "soon"}, "delay must be a timedelta.* got 'soon'"),
        ({"max_delay": float("nan")}, "max_delay must be a timedelta.* got nan"),
        ({"backoff": "quadratic"}, "backoff must be 'exponential', 'linear' or 'constant', got 'quadratic'"),
        ({"backoff": []}, "backoff must be"),
        ({"jitter": 0.3}, r"jitter must be a number from 0 to 0.25, got 0.3\."),
        ({"jitter": -0.1}, "got -0.1"),
        ({"jitter": float("nan")}, "got nan"),
        ({"jitter": True}, "got True"),
        ({"retry_if": 5}, "retry_if must be a function of the error, got 5"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        RetryPolicy(**options)


def test_a_policy_is_frozen_and_survives_pickling() -> None:
    policy = RetryPolicy(retries=7, delay="1 min")

    with pytest.raises(AttributeError):
        policy.retries = 8  # pyright: ignore[reportAttributeAccessIssue]
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_unset_options_keep_the_policy() -> None:
    policy = RetryPolicy(retries=7, delay=2, backoff="linear", max_delay=9, jitter=0.1)

    assert resolve(policy) is policy
    assert resolve(policy, retries=0) == RetryPolicy(0, 2, "linear", 9, 0.1)
    assert resolve(policy, backoff="constant").backoff == "constant"
    assert resolve(policy, max_delay=1).max_delay == 1


def test_a_whole_policy_takes_the_place_of_the_other_and_options_go_over_it() -> None:
    own = RetryPolicy(retries=1, delay=5)

    assert resolve(RetryPolicy(retries=9), retries=own) is own
    assert resolve(RetryPolicy(retries=9), retries=own, delay=6) == RetryPolicy(retries=1, delay=6)


def test_retry_if_is_taken_over_together_with_the_rest() -> None:
    def never(error: Exception) -> bool:
        return False

    merged = resolve(RetryPolicy(), retries=2, retry_if=never)

    assert (merged.retries, merged.retry_if) == (2, never)
    assert resolve(merged, retries=1).retry_if is never


def test_a_delay_beyond_the_default_limit_is_not_cut() -> None:
    assert resolve(RetryPolicy(), delay="1 minute").delay_us(1, 0) == 60 * SECOND
    assert resolve(RetryPolicy(), delay="1 minute", max_delay=10).delay_us(1, 0) == 10 * SECOND


@pytest.mark.parametrize(
    "options", [{"retries": True}, {"retries": -1}, {"delay": [1]}, {"delay": "x"}, {"max_delay": {}}]
)
def test_merging_checks_like_making(options: dict[str, Any]) -> None:
    for _ in range(2):
        with pytest.raises(InvalidInputError):
            resolve(RetryPolicy(retries=1), **options)
