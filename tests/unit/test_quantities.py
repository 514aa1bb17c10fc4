"""Kubernetes quantities: what a manifest may ask for, and how live objects' are compared."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from despina.api.crd import program_crd, tool_crd
from despina.api.pods import Accelerator, Resources
from despina.decide.drift import covers, quantity

GOOD = [0, 1, "1", "100m", "0.5", ".5", "1.", "1Gi", "512Mi", "1e3", "1E-2", "+2", "2k", "1Pi", "10n"]
BAD = ["lots", "", " 1", "1 Gi", "1G i", "-1", "-100m", -1, "1gi", "1mi", "0x10", "1e", "1\n", "NaN", "Infinity", "1" * 64, 1.5, None, [], {}]  # fmt: skip
NAMES = ["cpu", "memory", "ephemeral-storage", "hugepages-2Mi", "nvidia.com/gpu", "example.com/My_thing.x"]
NO_NAMES = [
    "",
    "/gpu",
    "nvidia.com/",
    "a/b/c",
    "Nvidia.com/gpu",
    "-cpu",
    "cpu-",
    "c pu",
    "x" * 64,
    f"{'a' * 300}/{'x' * 40}",
    "cpu\n",
]


@pytest.mark.parametrize("kind", ["requests", "limits"])
@pytest.mark.parametrize("value", GOOD)
def test_quantities_as_kubernetes_reads_them(kind, value):
    assert Resources.model_validate({kind: {"cpu": value}})


@pytest.mark.parametrize("kind", ["requests", "limits"])
@pytest.mark.parametrize("value", BAD)
def test_what_is_no_quantity_is_refused_with_the_fields_name(kind, value):
    with pytest.raises(ValidationError, match=rf"{kind}\.cpu"):
        Resources.model_validate({kind: {"cpu": value}})


@pytest.mark.parametrize("name", NAMES)
def test_resources_by_their_names(name):
    assert Resources(requests={name: 1})
    assert Accelerator(resource=name)


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_names_no_resource_is_refused(name):
    with pytest.raises(ValidationError):
        Resources(requests={name: 1})
    with pytest.raises(ValidationError):
        Accelerator(resource=name)


def resources_in(crd: dict[str, Any]) -> list[dict[str, Any]]:
    """Every `requests` and `limits` in a CRD's spec."""
    found, nodes = [], [crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]]
    while nodes:
        node = nodes.pop()
        properties = node.get("properties", {})
        found += [properties[k] for k in ("requests", "limits") if k in properties]
        nodes += [n for n in (*properties.values(), node.get("items")) if isinstance(n, dict)]
    return [f for f in found if "additionalProperties" in f]


@pytest.mark.parametrize("crd", [program_crd(), tool_crd()], ids=["program", "tool"])
def test_the_api_server_knows_it_too(crd):
    found = resources_in(crd)
    assert len(found) == 2
    for field in found:
        value = field["additionalProperties"]
        assert value["x-kubernetes-int-or-string"] is True
        assert value["pattern"].startswith(r"^\+?")
        assert (value["minimum"], value["maxLength"]) == (0, 32)
        assert field["maxProperties"] == 16
        assert "size(name)" in field["x-kubernetes-validations"][0]["rule"]
        assert not {"patternProperties", "propertyNames"} & set(field), "no part of a structural schema"


@given(
    st.one_of(st.text(max_size=8), st.sampled_from(["sNaN", "NaN", "Infinity", "1e999999999Gi", "-0", "1e-999999999n"]))
)
def test_any_text_can_be_compared(text):
    found = quantity(text)
    assert found is None or found.is_finite()
    assert covers(text, "1") in (True, False)
    assert covers("1", text) in (True, False)
