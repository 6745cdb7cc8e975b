from dataclasses import dataclass, replace
from typing import Any, Callable, Literal
from stepwell.duration import Duration, to_us
Backoff = Literal["exponential","linear","constant"]
@dataclass(frozen=True)
class RetryPolicy:
    retries: int = 3
    delay: Duration = 1
    backoff: Backoff = "exponential"
    max_delay: Duration = 30
    jitter: float = 0.25
    retry_if: Callable[[Exception], bool] | None = None
    def delay_us(self, attempt: int, fraction: float) -> int:
        d = to_us(self.delay) * 2**min(attempt-1, 40)
        d = min(d, to_us(self.max_delay))
        return int(d*(1+fraction*self.jitter))
def resolve(policy, *, retries=None, delay=None, backoff=None, max_delay=None, retry_if=None):
    if isinstance(retries, RetryPolicy): policy, retries = retries, None
    ch = {k:v for k,v in dict(retries=retries, delay=delay, backoff=backoff, max_delay=max_delay, retry_if=retry_if).items() if v is not None}
    return replace(policy, **ch)
