from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from pathlib import Path

import pytest

from tests.acceptance.harness import Site
from tests.acceptance.project import Project


@pytest.fixture
async def project(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Project]:
    """A copy of the example that `request.param` names, and somebody who looks at it."""
    project = Project(request.param, tmp_path / request.param)
    try:
        async with project.app.connected():
            yield project
    finally:
        project.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        yield site
    finally:
        site.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes of a failing test have logged."""
    report = yield
    if call.when == "call" and report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Site | Project):
                report.sections.append(("processes", value.show_logs()))
    return report
