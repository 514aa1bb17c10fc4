"""What the operator counts in a real MLflow server, of labels as pods deliver them, and what it writes there."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import httpx
import pytest

from despina.decide.observed import LabelsView, Vote
from despina.decide.plan import MoveAlias, Tag
from despina.sources import labels, marks
from despina.sources.labels import Labels
from despina.sources.marks import PROMOTED, Marks
from despina.sources.tracking import Tracking, make_client
from despina.wire import ModelRef, RuntimeConfig
from despina_runtime.feedback.label import Given
from despina_runtime.feedback.sink import MLflowSink
from despina_runtime.telemetry.executed import Executed
from despina_runtime.telemetry.prediction import Names
from tests.support.relay import Relay

KEY = ("ns", "qa")
NUMBERS = itertools.count()
NAMES = Names(b"x", "r1", "")
NOW = 1_700_000_000.0


class Pod:
    """What delivers predictions and labels to an experiment of its own."""

    def __init__(self, uri: str) -> None:
        self.experiment = f"ns/counted-{next(NUMBERS)}"
        model = ModelRef(name="qa", version="1", tracking_uri=uri)
        config = RuntimeConfig(namespace="ns", program="qa", revision="r1", model=model)
        self.sink = MLflowSink(config, self.experiment)

    async def predicts(self, count: int) -> list[str]:
        """Their origins."""
        origins = [NAMES.origin() for _ in range(count)]
        await self.sink.deliver([executed(origin, NOW + n) for n, origin in enumerate(origins)])
        return origins

    async def label(self, name: str, said: str, at: float) -> None:
        """Of a prediction by its name with its MAC."""
        given = Given(prediction_id=name, label=said, reason="so it is", expected={"answer": "x"})
        await self.sink.label(given.on(NAMES.read(name), at, is_trusted=False))


def executed(origin: str, at: float) -> Executed:
    inputs, outputs = {"question": "why " * 200}, {"answer": "so " * 300}
    return Executed(origin, at, 0.1, "r1", "1", "", 200, "", "main", 9, 3, "0.01", "", inputs, outputs, [])


@pytest.fixture
async def tracking():
    found = Tracking(make_client(10))
    yield found
    await found.close()


@pytest.fixture
async def pod(mlflow_uri):
    found = Pod(mlflow_uri)
    yield found
    await found.sink.close()


class Counting:
    """An operator's counting of one experiment."""

    def __init__(self, tracking: Tracking, uri: str, experiment: str) -> None:
        self.woken: list[tuple[str, str]] = []
        self.labels = Labels(tracking, self.woken.append)
        self._place = uri, experiment, None

    async def until(self, holds: Callable[[LabelsView], bool]) -> LabelsView:
        async with asyncio.timeout(60):
            while (view := self.labels.look(KEY, *self._place)) is None or not holds(view):
                await asyncio.sleep(0.02)
        return view


@pytest.fixture
async def counting(tracking, mlflow_uri, pod, monkeypatch):
    monkeypatch.setattr(labels, "PERIOD_SECONDS", 0.1)
    found = Counting(tracking, mlflow_uri, pod.experiment)
    yield found
    await found.labels.close()


def said(*failures: bool, at: float = NOW) -> tuple[Vote, ...]:
    return tuple(Vote(at + n, is_failure) for n, is_failure in enumerate(failures))


async def test_labels_are_counted_as_they_come_and_change(pod, counting):
    assert await counting.until(lambda view: True) == LabelsView()  # no experiment yet
    first, second, third, _ = await pod.predicts(4)
    assert (await counting.until(lambda view: True)).votes == ()
    await pod.label(NAMES.signed(first), "success", NOW)
    await pod.label(NAMES.signed(third), "failure", NOW + 1)
    await counting.until(lambda view: view.votes == said(False, True))
    hit = NAMES.hit(second)
    await pod.label(hit, "failure", NOW + 2)
    await pod.label(NAMES.signed(second), "success", NOW + 3)
    await counting.until(lambda view: view.votes == said(False, True, True, False))
    await pod.label(hit, "success", NOW + 4)
    wanted = (Vote(NOW, False), Vote(NOW + 1, True), Vote(NOW + 3, False), Vote(NOW + 4, False))
    await counting.until(lambda view: view.votes == wanted)
    assert set(counting.woken) == {KEY}


async def test_labels_that_change_sides_at_once_are_noticed_though_their_numbers_stay(pod, counting):
    one, another = await pod.predicts(2)
    await pod.label(NAMES.signed(one), "success", NOW)
    await pod.label(NAMES.signed(another), "failure", NOW + 1)
    await counting.until(lambda view: view.votes == said(False, True))
    await pod.label(NAMES.signed(one), "failure", NOW + 2)
    await pod.label(NAMES.signed(another), "success", NOW + 3)
    await counting.until(lambda view: view.votes == said(True, False, at=NOW + 2))


async def test_a_label_that_was_given_in_mlflows_pages_counts_from_when_it_was_and_a_withdrawn_one_not(
    pod, counting, mlflow_uri
):
    await pod.predicts(1)
    async with httpx.AsyncClient(base_url=f"{mlflow_uri}/api/3.0/mlflow") as client:
        path = await assess(client, mlflow_uri, pod.experiment)
        view = await counting.until(lambda view: len(view.votes) == 1)
        assert view.votes[0].is_failure
        assert abs(view.votes[0].at - time.time()) < 600
        await client.delete(path)
        await counting.until(lambda view: view.votes == ())


async def assess(client: httpx.AsyncClient, uri: str, experiment: str) -> str:
    """As MLflow's pages do; the assessment's path."""
    named = {"experiment_name": experiment}
    found = (await client.get(f"{uri}/api/2.0/mlflow/experiments/get-by-name", params=named)).json()["experiment"]
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": found["experiment_id"]}}
    trace = (await client.post("/traces/search", json={"locations": [place]})).json()["traces"][0]["trace_id"]
    given = {"assessment_name": "label", "trace_id": trace, "source": {"source_type": "HUMAN", "source_id": "me"}}
    made = await client.post(
        f"/traces/{trace}/assessments", json={"assessment": given | {"feedback": {"value": "failure"}}}
    )
    return f"/traces/{trace}/assessments/{made.raise_for_status().json()['assessment']['assessment_id']}"


async def test_labels_come_in_pages_and_in_the_order_in_which_they_were_given(pod, counting, monkeypatch):
    """Pages that are short, and too long at first; traces that nobody labelled lie among the others."""
    monkeypatch.setattr(labels, "PAGE", 16)
    monkeypatch.setattr(labels, "LONGEST_PAGE", 30_000)
    origins = await pod.predicts(60)
    for n, origin in enumerate(origins[::2]):
        await pod.label(NAMES.signed(origin), "failure" if n % 3 else "success", NOW + 100 - n)
    view = await counting.until(lambda view: len(view.votes) == 30)
    assert view.votes == tuple(Vote(NOW + 100 - n, bool(n % 3)) for n in range(29, -1, -1))


async def test_a_trace_that_is_too_long_is_stepped_over(pod, counting, monkeypatch):
    monkeypatch.setattr(labels, "LONGEST_PAGE", 12_000)
    origins = await pod.predicts(5)
    for n in range(20):
        await pod.label(NAMES.hit(origins[2]), "success", NOW + n)
    for n, origin in enumerate((*origins[:2], *origins[3:])):
        await pod.label(NAMES.signed(origin), "failure", NOW + 50 + n)
    await counting.until(lambda view: view.votes == said(True, True, True, True, at=NOW + 50))


async def test_while_mlflow_is_away_the_votes_stay(pod, tracking, mlflow_uri, monkeypatch):
    monkeypatch.setattr(labels, "PERIOD_SECONDS", 0.1)
    monkeypatch.setattr(labels, "MAX_BACKOFF_SECONDS", 0.3)
    relay = Relay(mlflow_uri)
    counting = Counting(tracking, relay.url, pod.experiment)
    (origin,) = await pod.predicts(1)
    await pod.label(NAMES.signed(origin), "failure", NOW)
    await counting.until(lambda view: view.votes == said(True))
    with relay.cut():
        view = await counting.until(lambda view: bool(view.problem))
        assert view.votes == said(True)
    (another,) = await pod.predicts(1)
    await pod.label(NAMES.signed(another), "success", NOW + 1)
    assert not (await counting.until(lambda view: view.votes == said(True, False))).problem
    await counting.labels.close()
    relay.close()


class Model:
    """A registered model with versions 1 and 2, and an alias."""

    def __init__(self, uri: str) -> None:
        self.name = f"marked-{next(NUMBERS)}"
        self.client = httpx.Client(base_url=f"{uri}/api/2.0/mlflow", timeout=30)
        self._post("registered-models/create")
        for _ in range(2):
            self._post("model-versions/create", source="s3://nowhere/model")
        self.alias("1")

    def _post(self, what: str, **fields: str) -> None:
        self.client.post(f"/{what}", json={"name": self.name, **fields}).raise_for_status()

    def alias(self, version: str) -> None:
        self._post("registered-models/alias", alias="champion", version=version)

    @property
    def meant(self) -> str:
        found = self.client.get("/registered-models/get", params={"name": self.name}).json()["registered_model"]
        return {a["alias"]: a["version"] for a in found["aliases"]}["champion"]

    def tags(self, version: str) -> dict[str, str]:
        asked = {"name": self.name, "version": version}
        found = self.client.get("/model-versions/get", params=asked).json()["model_version"]
        return {tag["key"]: tag["value"] for tag in found.get("tags", [])}


@pytest.fixture
def model(mlflow_uri) -> Model:
    return Model(mlflow_uri)


class Dies(Tracking):
    """Of an operator that is killed before a request of a kind."""

    def __init__(self, before: str) -> None:
        super().__init__(make_client(10))
        self.before, self.killed = before, asyncio.Event()

    async def ask(self, method, server, path, own, **what):
        if path.endswith(self.before):
            self.killed.set()
            await asyncio.Event().wait()
        return await super().ask(method, server, path, own, **what)


async def carry_out(tracking: Tracking, uri: str, model: Model, actions: Sequence[MoveAlias | Tag]) -> str:
    """In an operator's process of its own, to the end; its trouble."""
    writing = Marks(tracking, lambda _: None, time.time)
    for action in actions:
        writing.do(KEY, action, uri, model.name, "champion", None)
    tasks = [mark.task for mark in writing._marks[KEY].values()]
    await asyncio.wait(tasks, timeout=60)
    said = writing.trouble(KEY)
    await writing.close()
    return said


MOVE = MoveAlias(version="2", base="1")


async def test_an_alias_moves_once_and_never_again_when_somebody_moves_it_back(tracking, mlflow_uri, model):
    assert await carry_out(tracking, mlflow_uri, model, [MOVE]) == ""
    tags = model.tags("2")
    assert (model.meant, tags.keys(), model.tags("1")) == ("2", {PROMOTED}, {})
    model.alias("1")
    assert await carry_out(tracking, mlflow_uri, model, [MOVE]) == ""
    assert (model.meant, model.tags("2")) == ("1", tags)


async def test_an_operator_that_is_killed_between_alias_and_tag_is_followed_by_one_that_writes_it(
    tracking, mlflow_uri, model
):
    dying = Dies("set-tag")
    first = Marks(dying, lambda _: None, time.time)
    first.do(KEY, MOVE, mlflow_uri, model.name, "champion", None)
    async with asyncio.timeout(60):
        await dying.killed.wait()
    await first.close()
    assert (model.meant, model.tags("2")) == ("2", {})
    assert await carry_out(tracking, mlflow_uri, model, [MOVE]) == ""
    assert (model.meant, model.tags("2").keys()) == ("2", {PROMOTED})
    await dying.close()


async def test_an_alias_that_means_something_else_by_now_stays(tracking, mlflow_uri, model):
    assert await carry_out(tracking, mlflow_uri, model, [MoveAlias(version="2", base="7")]) == ""
    assert (model.meant, model.tags("2")) == ("1", {})


async def test_tags_are_written_and_a_version_that_is_gone_needs_none(tracking, mlflow_uri, model):
    said = await carry_out(tracking, mlflow_uri, model, [Tag("2", "taken-back", "WatchFailed: ä"), Tag("9", "x", "y")])
    assert said == ""
    assert model.tags("2") == {"despina.taken-back": "WatchFailed: ä"}


async def test_a_version_that_is_not_there_is_told(tracking, mlflow_uri, model, monkeypatch):
    monkeypatch.setattr(marks, "RETRY_SECONDS", 60)
    writing = Marks(tracking, lambda _: None, time.time)
    writing.do(KEY, MoveAlias(version="9", base="1"), mlflow_uri, model.name, "champion", None)
    async with asyncio.timeout(60):
        while not writing.trouble(KEY):
            await asyncio.sleep(0.02)
    assert writing.trouble(KEY).endswith(f"model '{model.name}' has no version 9")
    assert model.meant == "1"
    await writing.close()
