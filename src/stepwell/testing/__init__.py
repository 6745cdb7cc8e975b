"""The test kit: your app in memory, a clock that you advance, bodies that you replace.

async with sandbox(app) as tester:
    tester.stub("charge", returns=Payment("p-1"))
    execution = await order_processing.trigger(order)
    await tester.advance("30 seconds")
    assert await execution.status() == "completed"
"""

from stepwell.clock import ManualClock
from stepwell.testing.tester import Tester, sandbox

__all__ = ["ManualClock", "Tester", "sandbox"]
