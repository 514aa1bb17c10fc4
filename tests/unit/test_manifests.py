"""Manifests in files: what is wrong is told by the field as it stands there, or by the option that it came from."""

from __future__ import annotations

import pytest
import yaml

from despina_runtime.main import main
from despina_runtime.manifests import parsed
from despina_runtime.program.unservable import NotServable
from tests.support.gen import a_manifest

LM = {"name": "main", "model": "openai/x"}
OPTIMIZED = {"feedback": {}, "optimization": {"budget": {"maxLMCalls": 9}, "promotion": {"mode": "Auto"}}}
WRONG = {
    "a field that there is not": ({"replica": 1}, "spec.replica: no such field; did you mean replicas?"),
    "one further in": (
        {"source": {"mlflow": {"model": "m", "alias": "a", "trackingUrl": "x"}}},
        "spec.source.mlflow.trackingUrl: no such field; did you mean trackingURI?",
    ),
    "one of a list's item": ({"lms": [LM | {"baseUrl": "x"}]}, "spec.lms.0.baseUrl: no such field; did you mean baseURL?"),
    "one like no other": ({"surprise": 1}, "spec.surprise: no such field"),
    "no list": ({"lms": LM}, "spec.lms: Input should be a list"),
    "no mapping": ({"runtime": 1}, "spec.runtime: Input should be a mapping"),
    "an LM that there is not": ({"lm": "mein"}, "spec.lm must be the name of an entry of lms (main)"),
    "no LM": ({"lms": [], "lm": "mein"}, "spec.lm must be the name of an entry of lms (there is none)"),
    "fallbacks": ({"fallbacks": ["mein"]}, "spec.fallbacks must be names of entries of lms"),
    "a module's LM": (
        {"modules": [{"path": "a", "lm": "mein"}]},
        "spec.modules[].lm must be names of entries of lms",
    ),
    "a rule of a part": (
        {"source": {"mlflow": {"model": "m"}}},
        "spec.source.mlflow: set exactly one of alias and version",
    ),
    "a rule with a path of its own": (
        OPTIMIZED,
        "spec.optimization: optimization.promotion.mode Auto needs optimization.dataset.goldenRef",
    ),
    "a rule of the whole": (
        {"fallback": {"programRef": {"name": "qa"}}},
        "spec.fallback.programRef must name another program",
    ),
    "two LMs of one name": ({"lms": [LM, LM]}, "spec.lms: more than one has the name 'main'"),
    "two tools of one name": (
        {"tools": [{"name": "a", "ref": {"name": "x"}}, {"name": "a", "ref": {"name": "y"}}]},
        "spec.tools: more than one has the name 'a'",
    ),
    "two outputs of one module": (
        {"warmUp": {"outputs": [{"path": "a", "values": {}}] * 2}},
        "spec.warmUp.outputs: more than one has the path 'a'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_by_its_field(case):
    spec, said = WRONG[case]
    with pytest.raises(NotServable) as raised:
        parsed(a_manifest(**spec))
    assert str(raised.value) == said


NAMES = {
    None: "metadata.name: Input should be a valid string",
    "My_Program": "metadata.name must be at most 40 characters of a-z, 0-9 and -, starting with a letter",
    "x" * 41: "metadata.name must be at most 40 characters of a-z, 0-9 and -, starting with a letter",
    "9a": "metadata.name must be at most 40 characters of a-z, 0-9 and -, starting with a letter",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_the_cluster_would_refuse_is_refused(name):
    manifest = a_manifest()
    manifest["metadata"]["name"] = name
    with pytest.raises(NotServable) as raised:
        parsed(manifest)
    assert str(raised.value) == NAMES[name]


def test_what_is_right_stays_so():
    assert parsed(a_manifest(lms=[LM, LM | {"name": "other"}], lm="other")).spec.lm == "other"


FILES = {
    "---\na: 1\n---\nb: 1\n": "program.yaml has more than one document (2)",
    "a: [\n": "program.yaml is no YAML: ",
    "- 1\n": "program.yaml is not a manifest",
    "": "program.yaml is not a manifest",
    "[" * 5000: "program.yaml is no YAML: ",
    "a: 2024-13-45\n": "program.yaml is no YAML: ",
}


@pytest.fixture
def serve(tmp_path, monkeypatch, capsys):
    """What `serve -f` says of a file and options; it never comes to serve."""

    async def follow(program, *_):
        raise NotServable(f"served from {program.spec.source.mlflow.tracking_uri}")

    def run(text: str, *options: str) -> str:
        (tmp_path / "program.yaml").write_text(text)
        assert main(["serve", "-f", "program.yaml", *options]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        return said.removeprefix("despina-runtime: ")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("despina_runtime.process.follow.follow", follow)
    return run


@pytest.mark.parametrize("text", FILES)
def test_a_file_that_holds_no_manifest_is_told_in_a_line(serve, text):
    assert serve(text).startswith(FILES[text])


OWN = yaml.safe_dump(a_manifest(source={"mlflow": {"model": "m", "alias": "a", "trackingURI": "http://own"}}))


def test_the_option_goes_before_the_environment_and_that_before_the_manifest(serve, monkeypatch):
    assert serve(OWN) == "served from http://own"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert serve(OWN) == "served from http://environment"
    assert serve(OWN, "--tracking-uri", "http://option") == "served from http://option"


@pytest.mark.parametrize("uri", ["http://anna:sesame@mlflow", "sqlite:///sesame.db", "http://mlflow?token=sesame"])
def test_an_address_that_is_none_is_blamed_on_where_it_came_from_and_not_shown(serve, monkeypatch, uri):
    assert serve(OWN, "--tracking-uri", uri).startswith("--tracking-uri, which goes before spec.source.mlflow.tracki")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = serve(OWN)
    assert said.startswith("MLFLOW_TRACKING_URI, which goes before spec.source.mlflow.trackingURI, must be http://HOST")
    assert "sesame" not in said


@pytest.mark.parametrize("command", ["serve", "optimize"])
def test_help_says_that_the_environment_counts(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "MLFLOW_TRACKING_URI says it" in " ".join(capsys.readouterr().out.split())


GIVEN = {
    "no scheme": (["--url", "localhost:8080"], "--url localhost:8080: it begins with http:// or https://"),
    "no JSON": (["--expected", "{category: account}"], "argument --expected: is no JSON object: {category: account}"),
    "no object": (["--expected", "[1]"], "argument --expected: is no JSON object: [1]"),
}


@pytest.mark.parametrize("case", GIVEN)
def test_a_label_that_cannot_be_given_is_told_by_the_option(case, capsys):
    options, said = GIVEN[case]
    try:
        code = main(["feedback", "give", "x", "failure", *options])
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert said in capsys.readouterr().err


def test_a_slash_behind_the_address_is_none_of_the_path(monkeypatch, capsys):
    asked = []

    def post(url: str, **_):
        asked.append(url)
        raise ValueError

    monkeypatch.setattr("httpx.post", post)
    assert main(["feedback", "give", "x", "failure", "--url", "http://localhost:8080/"]) == 2
    assert asked == ["http://localhost:8080/feedback"]
