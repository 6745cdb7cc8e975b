"""The pytest plugin: it comes with the package, nothing has to be configured.

Fixtures import the engine when they are used, so that a test run without workflows does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stepwell.app import App
    from stepwell.testing.tester import Tester


@pytest.fixture
def workflow_tester() -> Callable[[App], AbstractAsyncContextManager[Tester]]:
    """`async with workflow_tester(app) as tester:` runs an app in memory; see `stepwell.testing.sandbox`."""
    from stepwell.testing.tester import sandbox

    return sandbox
