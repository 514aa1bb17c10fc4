"""Markers by folder. The tiers that need a cluster run only with --all-tiers, as `make test` does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
CLUSTER_TIERS = ("cluster", "e2e")
sys.path[:0] = [str(ROOT / "hack")]


def pytest_addoption(parser):
    parser.addoption("--all-tiers", action="store_true", help="run the tiers that need a cluster, too")


def pytest_collection_modifyitems(config, items):
    order = ("unit", "packaging", "runtime", "api", "cluster", "e2e")
    items.sort(key=lambda item: order.index(tier_of(item)))
    for item in items:
        reason = why_not(config, tier_of(item))
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def tier_of(item) -> str:
    return item.path.relative_to(TESTS).parts[0]


def why_not(config, tier: str) -> str | None:
    if tier not in CLUSTER_TIERS:
        return None
    if os.environ.get("DESPINA_NO_CLUSTER"):
        return os.environ["DESPINA_NO_CLUSTER"]
    if not os.environ.get("DESPINA_TEST_CLUSTER"):
        return "needs a cluster: use `make test`"
    return None if config.getoption("--all-tiers") else "needs --all-tiers: use `make test`"


def pytest_terminal_summary(terminalreporter):
    """Print what traffic saw: requests sent and failed, in every test that changed a version."""
    from tests.support.world import REPORTS

    if REPORTS:
        terminalreporter.section("traffic")
        for line in REPORTS:
            terminalreporter.write_line(line)
