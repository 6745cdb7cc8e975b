"""How often a failed step is tried again, and how long it waits in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from stepwell.duration import Duration, to_us
from stepwell.errors import InvalidInputError

Backoff: TypeAlias = Literal["exponential", "linear", "constant"]
"""How the delay grows from one attempt to the next."""

BACKOFFS: Final[tuple[str, ...]] = get_args(Backoff)
MAX_JITTER: Final = 0.25


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often a failed step is tried again.

    Args:
        retries: Attempts after the first; 0 fails at once.
        delay: Wait after the first failed attempt.
        backoff: `"exponential"` doubles the delay each time, `"linear"` adds it each time, `"constant"` keeps it.
        max_delay: No wait is longer than this, jitter apart.
        jitter: At most this share, 0 to 0.25, is added to each wait by chance.
        retry_if: Called with the error; false means no further attempt.
    """

    retries: int = 3
    delay: Duration = 1
    backoff: Backoff = "exponential"
    max_delay: Duration = 30
    jitter: float = MAX_JITTER
    retry_if: Callable[[Exception], bool] | None = None

    def __post_init__(self) -> None:
        retries, jitter = cast("object", self.retries), cast("object", self.jitter)
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise InvalidInputError(f"retries must be a whole number, 0 or more, got {retries!r}.")
        to_us(self.delay, what="delay")
        to_us(self.max_delay, what="max_delay")
        if self.backoff not in BACKOFFS:
            raise InvalidInputError(f"backoff must be 'exponential', 'linear' or 'constant', got {self.backoff!r}.")
        if not isinstance(jitter, (int, float)) or isinstance(jitter, bool) or not 0 <= jitter <= MAX_JITTER:
            raise InvalidInputError(f"jitter must be a number from 0 to {MAX_JITTER}, got {jitter!r}.")
        if self.retry_if is not None and not callable(self.retry_if):
            raise InvalidInputError(f"retry_if must be a function of the error, got {self.retry_if!r}.")

    def delay_us(self, attempt: int, fraction: float) -> int:
        """Microseconds to wait after a failed attempt.

        Args:
            attempt: The attempt that failed, counted from 1.
            fraction: Chance, from 0 to 1, that decides how much of the jitter is added.
        """
        delay, longest = to_us(self.delay), to_us(self.max_delay)
        match self.backoff:
            case "exponential":
                # 2**64 microseconds are more than any max_delay can be.
                wait = delay << min(attempt - 1, 64)
            case "linear":
                wait = delay * attempt
            case "constant":
                wait = delay
        wait = min(wait, longest)
        return wait + int(wait * self.jitter * fraction)


def resolve(
    policy: RetryPolicy,
    *,
    retries: int | RetryPolicy | None = None,
    delay: Duration | None = None,
    backoff: Backoff | None = None,
    max_delay: Duration | None = None,
    retry_if: Callable[[Exception], bool] | None = None,
) -> RetryPolicy:
    """Give the policy with these options put over it; None is unset.

    Args:
        policy: What holds where nothing else is said.
        retries: Attempts after the first, or a whole policy that takes the place of `policy`.
        delay: As in `RetryPolicy`. A delay that is longer than the policy's `max_delay` raises that, too.
        backoff: As in `RetryPolicy`.
        max_delay: As in `RetryPolicy`.
        retry_if: As in `RetryPolicy`.
    """
    if isinstance(retries, RetryPolicy):
        policy, retries = retries, None
    if retry_if is not None:
        return replace(_merged(policy, retries, delay, backoff, max_delay), retry_if=retry_if)
    if retries is delay is backoff is max_delay is None:
        return policy
    return _merged(policy, retries, delay, backoff, max_delay)


def _merged(
    policy: RetryPolicy,
    retries: int | None,
    delay: Duration | None,
    backoff: Backoff | None,
    max_delay: Duration | None,
) -> RetryPolicy:
    try:
        return _cached_merge(policy, retries, delay, backoff, max_delay)
    except TypeError:  # not hashable: the validation says what is wrong
        return _merge(policy, retries, delay, backoff, max_delay)


def _merge(
    policy: RetryPolicy,
    retries: int | None,
    delay: Duration | None,
    backoff: Backoff | None,
    max_delay: Duration | None,
) -> RetryPolicy:
    if delay is not None and max_delay is None and to_us(delay, what="delay") > to_us(policy.max_delay):
        max_delay = delay
    options: dict[str, Any] = {"retries": retries, "delay": delay, "backoff": backoff, "max_delay": max_delay}
    return replace(policy, **{name: value for name, value in options.items() if value is not None})


# Typed, because True equals 1 and is refused. A step asks for the same few combinations again and again.
_cached_merge: Final = lru_cache(maxsize=256, typed=True)(_merge)
