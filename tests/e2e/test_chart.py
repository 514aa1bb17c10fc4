"""Installing, upgrading, removing and installing again under another name, while a program serves."""

from __future__ import annotations

import pytest

from stage import CHART
from tests.support.world import Kube, eventually, log_model, move_alias, traffic

pytestmark = pytest.mark.alone  # it replaces the operator that all use


@pytest.fixture
def args(kube, tmp_path):
    """The operator as it is installed, and as it is installed again afterwards: there is one, for all tests."""
    values = tmp_path / "values.yaml"
    values.write_text(kube.helm("get", "values", "despina", "--namespace=despina-system", "--output=yaml"))
    found = ["--namespace=despina-system", f"--values={values}", "--wait", "--timeout=120s"]
    yield found
    kube.helm("uninstall", "again", "--namespace=despina-system", "--ignore-not-found", "--wait")
    kube.helm("upgrade", "--install", "despina", str(CHART), *found)


def test_the_chart_comes_and_goes_while_programs_serve(given, kube, args):
    log_model("good", "chart", "champion")
    log_model("compiled", "chart")
    program = given("chart", replicas=1)
    program.becomes_ready()
    pods = {p["metadata"]["name"] for p in program.pods()}
    with traffic(program, rate=20) as requests:
        kube.helm("upgrade", "despina", str(CHART), *args, "--set-string=podAnnotations.upgraded=yes")
        kube.helm("uninstall", "despina", "--namespace=despina-system", "--wait")
        assert "dspyprograms" in kube("get", "crd", "dspyprograms.despina.dev", "-o", "name")
        assert program.status["active"]["version"] == "1"
        move_alias("chart", "2")  # while there is no operator
        kube.helm("install", "again", str(CHART), *args)
        eventually("version 2 is active", lambda: program.is_active("2"), 120)
        eventually("the last old pod is gone", lambda: program.only_pods_of("2"), 120)
    assert not requests.report("chart upgraded, removed, installed again", allowed={"1", "2"})
    assert pods.isdisjoint({p["metadata"]["name"] for p in program.pods()})
    columns = kube("get", "dspy").splitlines()[0].split()
    names = "NAME READY AVAILABLE VERSION CANDIDATE STEP BREAKER REPLICAS REASON AGE"
    assert columns == names.split()
    log = Kube("despina-system")("logs", "deployment/again-despina")
    assert "Traceback" not in log
