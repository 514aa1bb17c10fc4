"""The small pure pieces that decisions are made of."""

from __future__ import annotations

from decimal import Decimal

import pytest

from despina.decide.drift import covers, has_drifted, quantity
from despina.decide.quarantine import parse_timestamp, timestamp


@pytest.mark.parametrize(
    ("text", "number"),
    [("100m", "0.1"), ("0.1", "0.1"), ("1Gi", "1073741824"), ("2k", "2000"), (3, "3"), ("x", None), ("", None)],
)
def test_quantities(text, number):
    assert quantity(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("live", "wanted", "same"),
    [
        ({"a": 1, "defaulted": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"cpu": "100m"}, {"cpu": "0.1"}, True),
        ({"list": [{"a": 1, "x": 2}]}, {"list": [{"a": 1}]}, True),
        ({"list": [{"a": 1}, {"a": 2}]}, {"list": [{"a": 1}]}, False),
        ({"name": "a"}, {"name": "b"}, False),
        ("text", {"a": 1}, False),
    ],
)
def test_covers(live, wanted, same):
    assert covers(live, wanted) is same


def test_a_label_more_in_a_selector_is_a_drift():
    wanted = {"kind": "Service", "spec": {"selector": {"a": "1"}}}
    assert has_drifted({"spec": {"selector": {"a": "1", "b": "2"}}}, wanted)
    assert not has_drifted({"spec": {"selector": {"a": "1"}, "type": "ClusterIP"}}, wanted)
    assert has_drifted(None, wanted)


def test_timestamps_go_both_ways():
    assert parse_timestamp(timestamp(1_700_000_000.0), 0.0) == 1_700_000_000.0
