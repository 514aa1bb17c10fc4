"""The small pure pieces that decisions are made of."""

from __future__ import annotations

from decimal import Decimal

import pytest

from despina.decide.drift import applied, covers, has_drifted, quantity
from despina.decide.plan import Apply
from despina.decide.quarantine import parse_timestamp, timestamp

QUANTITIES = [
    ("100m", "0.1"), ("0.1", "0.1"), ("2u", "0.000002"), ("2n", "0.000000002"), (3, "3"),
    ("2k", "2000"), ("2M", "2e6"), ("2G", "2e9"), ("2T", "2e12"),
    ("1Ki", "1024"), ("1Mi", "1048576"), ("1Gi", "1073741824"), ("1Ti", "1099511627776"),
    ("x", None), ("", None), ("Gi", None), (None, None), ([], None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "number"), QUANTITIES)
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
        ({"list": [{"a": 2}]}, {"list": [{"a": 1}]}, False),
        ({"list": "a"}, {"list": ["a"]}, False),
        ({"list": []}, {"list": []}, True),
        ({"cpu": "100m"}, {"cpu": "0.2"}, False),
        ({"cpu": "1024"}, {"cpu": "1Ki"}, True),
        ({"a": None}, {"a": "text"}, False),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, False),
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


WANTED = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"l": "1"}}, "data": {"k": "v"}}
DRIFTS = {
    # sentence: what differs from what is wanted; whether it must be applied
    "as it should be": ({}, False),
    "items of a list do not say what they are": ({"apiVersion": None, "kind": None}, False),
    "the API server adds to it": ({"metadata": {"name": "a", "labels": {"l": "1"}, "uid": "u"}, "status": {}}, False),
    "a label is gone": ({"metadata": {"name": "a", "labels": {}}}, True),
    "a part is gone": ({"metadata": None}, True),
    "data is another": ({"data": {"k": "w"}}, True),
    "there is more data": ({"data": {"k": "v", "l": "x"}}, True),
    "there is no data": ({"data": None}, True),
}


@pytest.mark.parametrize("sentence", DRIFTS)
def test_drifts(sentence):
    changes, drifted = DRIFTS[sentence]
    live = {k: v for k, v in (WANTED | changes).items() if v is not None}
    assert has_drifted(live, WANTED) is drifted


def test_only_what_has_drifted_is_applied():
    objects = {("ConfigMap", "a"): WANTED, ("ConfigMap", "b"): WANTED | {"data": {}}}
    b = WANTED | {"metadata": {"name": "b"}}
    assert list(applied(objects, WANTED)) == []
    assert list(applied(objects, b)) == [Apply(b)]
    assert list(applied(objects, WANTED | {"kind": "Secret"})) == [Apply(WANTED | {"kind": "Secret"})]


def test_timestamps_go_both_ways():
    assert parse_timestamp(timestamp(1_700_000_000.0), 0.0) == 1_700_000_000.0
