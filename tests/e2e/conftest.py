"""One operator, one MLflow and one stand-in LM serve all end-to-end tests; each module has a namespace of its own."""

from __future__ import annotations

import pytest

from stage import namespace_of
from tests.support.world import Given, Kube, manifest


@pytest.fixture(scope="module")
def kube(request) -> Kube:
    return Kube(namespace_of(request.path))


@pytest.fixture
def given(kube):
    """Makes programs and removes them."""
    programs: list[Given] = []

    def make(name: str, **changes) -> Given:
        program = Given(kube, manifest(name, **changes))
        programs.append(program)
        return program

    yield make
    for program in programs:
        kube("delete", "dspy", program.name, "--ignore-not-found", "--wait=true")
