"""Markers by folder, and what may run beside what. The tiers that need a cluster run only with --all-tiers, as
`make test` does."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
CLUSTER_TIERS = ("cluster", "e2e")
SIDE_BY_SIDE = "PYTEST_XDIST_WORKER" in os.environ
sys.path[:0] = [str(ROOT / "hack")]


def pytest_addoption(parser):
    parser.addoption("--all-tiers", action="store_true", help="run the tiers that need a cluster, too")


def pytest_collection_modifyitems(config, items):
    order = ["unit", "packaging", "runtime", "page", "api", "cluster", "e2e"]
    if SIDE_BY_SIDE:  # what takes long and mostly waits comes first, so that both processes end at about the same time
        order.reverse()
    items.sort(key=lambda item: (is_alone(item), order.index(tier_of(item))))
    for item in items:
        reason = why_not(config, tier_of(item))
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def tier_of(item) -> str:
    return item.path.relative_to(TESTS).parts[0]


def is_alone(item) -> bool:
    return item.get_closest_marker("alone") is not None


def why_not(config, tier: str) -> str | None:
    if tier not in CLUSTER_TIERS:
        return None
    if os.environ.get("DESPINA_NO_CLUSTER"):
        return os.environ["DESPINA_NO_CLUSTER"]
    if not os.environ.get("DESPINA_TEST_CLUSTER"):
        return "needs a cluster: use `make test`"
    return None if config.getoption("--all-tiers") else "needs --all-tiers: use `make test`"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each process takes a file at a time, in the order above; unless `make schedules` shares out the tests of one."""
    if config.option.dist == "worksteal":
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test that is to be alone waits until the other process is between two tests, and keeps it there."""
    if not SIDE_BY_SIDE:
        return (yield)
    with Path(__file__).open() as lock:  # any file that both processes see; closing it gives the lock back
        fcntl.flock(lock, fcntl.LOCK_EX if is_alone(item) else fcntl.LOCK_SH)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What traffic saw goes with the test's report, which may have to go to another process."""
    from tests.support.world import REPORTS

    if call.when == "call":
        item.user_properties += [("traffic", line) for line in REPORTS]
        REPORTS.clear()
    return (yield)


def pytest_terminal_summary(terminalreporter):
    """Print what traffic saw: requests sent and failed, in every test that changed a version."""
    reports = [r for found in terminalreporter.stats.values() for r in found if getattr(r, "when", "") == "call"]
    lines = [line for report in reports for kind, line in report.user_properties if kind == "traffic"]
    if lines:
        terminalreporter.section("traffic")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """A command of ours may silence logging for its whole process, which tests share."""
    yield
    logging.disable(logging.NOTSET)
