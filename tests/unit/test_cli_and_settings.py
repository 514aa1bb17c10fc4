"""The operator's command line and configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from despina.cli import main, render_manifest
from despina.settings import Settings, read_profiles

EXAMPLE = Path(__file__).parents[2] / "examples" / "ticket-triage" / "program.yaml"


def test_render_shows_what_a_manifest_becomes():
    kinds = [d["kind"] for d in yaml.safe_load_all(render_manifest(EXAMPLE, "3"))]
    assert kinds == ["ServiceAccount", "ConfigMap", "Deployment", "Service", "Service", "PodDisruptionBudget"]


def test_crds_are_printed(capsys):
    main(["crds"])
    names = [d["metadata"]["name"] for d in yaml.safe_load_all(capsys.readouterr().out)]
    assert names == ["dspyprograms.despina.dev", "dspytools.despina.dev"]


@pytest.mark.parametrize(("text", "namespaces"), [("", ["own"]), ("a", ["a"]), ("a, b,", ["a", "b"])])
def test_the_operators_own_namespace_is_watched_unless_others_are_named(monkeypatch, text, namespaces):
    monkeypatch.setenv("DESPINA_NAMESPACE", "own")
    monkeypatch.setenv("DESPINA_WATCH_NAMESPACES", text)
    assert Settings().namespaces == namespaces


def test_a_mistake_in_a_profile_is_named(tmp_path):
    path = tmp_path / "profiles.yaml"
    path.write_text("gpu: {nodeSelektor: {a: b}}")
    with pytest.raises(ValidationError, match=r"gpu\.nodeSelektor"):
        read_profiles(path)
    path.write_text("")
    assert read_profiles(path) == {}
    assert read_profiles(None) == {}
