"""What an optimisation leaves in MLflow: a run, the dataset, and a new version of the model in Despina's format.

The version is the parent's artefact with another compiled state: none of its code runs for that. All of this blocks.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from despina.wire import TAKEN_BACK_TAG, ModelRef, OptimizationResult
from despina_runtime.cache.keys import canonical
from despina_runtime.evaluation.examples import Row, Unusable
from despina_runtime.optimization.datasets import Dataset
from despina_runtime.optimization.states import State
from despina_runtime.program.fetch import COMPLETE
from despina_runtime.program.manifest import FLAVOR, MANIFEST, STATE, Manifest, sha256
from despina_runtime.tracking import told

log = logging.getLogger(__name__)
ALIAS = "candidate"
PREFIX = "despina."
SETTINGS, JUDGED, HELDOUT_ROWS, PARENT, STATE_DIGEST = "settings", "judged", "heldout-rows", "parent", "state"
DIGITS = 8
NOT_THE_VERSIONS = (COMPLETE, "registered_model_meta", "MLmodel", "conda.yaml", "python_env.yaml", "__pycache__")
"""What a download, or MLflow, puts beside what the version is made of."""


@dataclass(frozen=True)
class Earlier:
    """A version that an optimisation with the same settings, on the same data, has given."""

    version: str
    is_judged: bool
    is_taken_back: bool
    """Whether callers had to be sent away from it."""
    found: OptimizationResult | None = None
    """What came of that, as far as its tags say."""


class Registry:
    """One model on its tracking server, asked with the program's own credentials."""

    def __init__(self, model: ModelRef, secret: str | None) -> None:
        self._model, self._secret = model, secret

    @contextmanager
    def _client(self) -> Iterator[Any]:
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a command's own words stand there
        import mlflow
        from mlflow.exceptions import MlflowException

        mlflow.set_tracking_uri(self._model.tracking_uri)
        with told(self._model.tracking_uri, self._secret):
            try:
                yield mlflow.MlflowClient()
            except MlflowException as exc:
                log.error("MLflow refuses error=%s", exc.message)
                raise Unusable(
                    f"MLflow refuses ({exc.error_code}): the program's credentials must be allowed to read and to add"
                    f" versions of {self._model.name}, and the server must answer; then begin the run again"
                ) from exc

    def find(self, settings: str) -> Earlier | None:
        """The last version with this name of its settings."""
        versions = self._with(SETTINGS, settings)
        last = max(versions, key=lambda version: int(version.version), default=None)
        if last is None:
            return None
        is_judged, is_taken_back = last.tags.get(PREFIX + JUDGED) != "no", TAKEN_BACK_TAG in last.tags
        return Earlier(str(last.version), is_judged, is_taken_back, found_by(str(last.version), last.tags))

    def taken_back(self, state: State) -> str | None:
        """The version of this very state that callers had to be sent away from, if there is one."""
        versions = self._with(STATE_DIGEST, digest_of(state))
        return next((str(version.version) for version in versions if TAKEN_BACK_TAG in version.tags), None)

    def times_used(self, heldout: str) -> int:
        """How many versions have been judged on these held-out rows."""
        return sum(version.tags.get(PREFIX + JUDGED) == "yes" for version in self._with(HELDOUT_ROWS, heldout))

    def _with(self, tag: str, value: str) -> list[Any]:
        name = self._model.name.replace("'", "")
        with self._client() as client:
            found: list[Any] = client.search_model_versions(f"name = '{name}' and tags.`{PREFIX}{tag}` = '{value}'")
        return found

    def register(
        self,
        program: str,
        parent: tuple[Path, str],
        state: State,
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
    ) -> str:
        """A new version, with tags from the first moment on; the version's number. The run has the files. `parent` is
        the artefact and the digest of its files before any of its code ran."""
        import mlflow
        from mlflow.models import Model

        own = {PREFIX + name: value for name, value in tags.items()} | {PREFIX + STATE_DIGEST: digest_of(state)}
        with self._client():
            mlflow.set_experiment(program)  # experiments are named after programs
            with mlflow.start_run(run_name=f"optimize {self._model.name}"), tempfile.TemporaryDirectory() as folder:
                mlflow.set_tags(own)
                mlflow.log_artifacts(str(_written(Path(folder), files)))
                # Registered by a request that holds the tags: nobody sees the version without them.
                info = Model.log(artifact_path=None, name=self._model.name, flavor=sys.modules[__name__],
                                 parent=str(parent[0]), digest=parent[1], state=state)  # fmt: skip
                made = mlflow.register_model(info.model_uri, self._model.name, tags=own)
        return str(made.version)

    def tag(self, version: str, tags: Mapping[str, str], is_better: bool) -> None:
        """What was found out of a version; the alias last, so that whoever follows it finds all else. From a later
        version it is not moved back."""
        with self._client() as client:
            for name, value in tags.items():
                client.set_model_version_tag(self._model.name, version, PREFIX + name, value)
            aliases = client.get_registered_model(self._model.name).aliases if is_better else {}
            if is_better and int(aliases.get(ALIAS, "0")) < int(version):
                client.set_registered_model_alias(self._model.name, ALIAS, version)

    def mirror(self, program: str, dataset: Dataset) -> None:
        """The dataset as MLflow's own, by side: each a new one, for MLflow would write over what is in an old one."""
        import mlflow

        sides = {"train": dataset.train, "validation": dataset.validation, "heldout": dataset.heldout}
        try:
            with self._client():
                number = mlflow.set_experiment(program).experiment_id
                for side, rows in sides.items():
                    _mirror(f"{program}-{side}-{dataset.digest[:DIGITS]}", number, rows, dataset.digest)
        except Unusable as exc:  # what counts is the run's artefact
            log.warning("The dataset was not mirrored error=%s", exc)


def found_by(version: str, tags: Mapping[str, str]) -> OptimizationResult | None:
    """What the tags say that `Work` has written."""
    own = {name: tags.get(PREFIX + name, "") for name in ("reason", "message")}
    try:
        scores = {name: orjson.loads(tags[PREFIX + name]) for name in ("heldout", "golden") if PREFIX + name in tags}
        return OptimizationResult.model_validate({"candidate_version": version, **own, **scores})
    except ValueError:
        return None


def digest_of(state: State) -> str:
    """64 hexadecimal digits: by it a compiled state is found again."""
    return hashlib.sha256(canonical(state)).hexdigest()


def _mirror(name: str, experiment: str, rows: tuple[Row, ...], digest: str) -> None:
    """Names are not unique in MLflow, so that one that is there already is left alone."""
    from mlflow.genai.datasets import create_dataset, search_datasets

    if not rows or search_datasets(filter_string=f"name = '{name}'", max_results=1):
        return
    made = create_dataset(name=name, experiment_id=experiment, tags={PREFIX + "digest": digest})
    made.merge_records([{"inputs": row.inputs, "expectations": row.expected} for row in rows])


def _written(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    return folder


def files_digest(folder: Path) -> str:
    """64 hexadecimal digits of all that a version is made of."""
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_file() and not set(NOT_THE_VERSIONS) & set(name.parts):
            found.update(canonical([str(name), sha256(file)]))
    return found.hexdigest()


def save_model(path: str, mlflow_model: Any = None, *, parent: str, digest: str, state: State) -> None:
    """Write the artefact; MLflow calls this with a folder of its own. Raises Unusable where the model's code has
    changed its files while it ran here."""
    folder = Path(path)
    shutil.copytree(parent, folder, ignore=shutil.ignore_patterns(*NOT_THE_VERSIONS), dirs_exist_ok=True)
    if files_digest(folder) != digest:
        raise Unusable("the model's code has changed the version's files while it ran: nothing of it is registered")
    manifest = with_state(folder, state)
    mlflow_model.add_flavor(FLAVOR, format=manifest.format, entrypoint=manifest.entrypoint)
    mlflow_model.save(str(folder / "MLmodel"))


def with_state(folder: Path, state: State) -> Manifest:
    """Give an artefact another compiled state."""
    (folder / STATE).write_bytes(orjson.dumps(state, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    before = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    manifest = before.model_copy(update={"state_sha256": sha256(folder / STATE)})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    return manifest
