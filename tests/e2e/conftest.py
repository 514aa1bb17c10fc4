"""One operator, one MLflow and one stand-in LM serve all end-to-end tests; each has programs of its own."""

from __future__ import annotations

import pytest

from tests.support.world import Given, Kube, manifest


@pytest.fixture
def kube() -> Kube:
    return Kube()


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
