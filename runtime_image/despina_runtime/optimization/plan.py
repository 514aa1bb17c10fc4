"""What an optimisation is about, before anything is asked of an LM: pure functions, but for reading its files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from despina.wire import OptimizationConfig
from despina_runtime.cache.keys import canonical
from despina_runtime.evaluation.examples import Line, Unusable, parsed
from despina_runtime.optimization.budget import Limits
from despina_runtime.optimization.datasets import Dataset, LabelledPrediction, make_dataset


@dataclass(frozen=True)
class Plan:
    """The data."""

    config: OptimizationConfig
    dataset: Dataset
    golden: tuple[Line, ...]

    @property
    def settings(self) -> str:
        """64 hexadecimal digits: the name of a run that would give the same again."""
        config, base = self.config, self.config.base
        asked = config.model_dump(include={"modules", "optimizer", "metric", "budget", "promotion", "tools"})
        lms = [lm.model_dump(include={"name", "model", "params"}) for lm in base.lms]
        owner = [base.namespace, base.program, base.model.model_dump(), base.lm, base.fallbacks, lms]
        return _digest([owner, asked, self.golden, self.dataset.digest])

    @property
    def heldout_rows(self) -> str:
        """64 hexadecimal digits: the name of the held-out side."""
        return _digest([vars(row) for row in self.dataset.heldout])

    @property
    def limits(self) -> Limits:
        """The budget."""
        budget = self.config.budget
        usd = Decimal(budget.max_usd) if budget.max_usd is not None else None
        return Limits(budget.max_lm_calls, budget.seconds, usd)

    @property
    def questions(self) -> int:
        """How many rows each of the two versions is judged on."""
        return len(self.dataset.heldout) + len(self.golden)

    def least_calls(self, predictors: int) -> int:
        """What it takes at least: two programs are validated and two are judged, and each calls all its predictors."""
        return 2 * predictors * (len(self.dataset.validation) + self.questions)

    @property
    def lack(self) -> str:
        """Why nothing could be judged."""
        if not (self.dataset.train and self.dataset.validation):
            return "there are no labelled rows to learn from: labels need `expected`, or must be of successes"
        found, wanted = len(self.dataset.heldout), self.config.promotion.min_examples
        return f"{found} held-out rows of trusted sources, and it takes {wanted}" if found < wanted else ""


def _digest(document: Any) -> str:
    return hashlib.sha256(canonical(document)).hexdigest()


def read_plan(config: OptimizationConfig) -> Plan:
    """Read labels and golden rows; raises Unusable."""
    labels, rules = read_labels(Path(config.labels.file)), config.labels
    dataset = make_dataset(labels, group_by=rules.group_by, max_percent_per_source=rules.max_percent_per_source)
    return Plan(config, dataset, tuple(parsed(read(Path(config.golden)))) if config.golden else ())


def read_labels(path: Path) -> list[LabelledPrediction]:
    """Labelled predictions, a JSON object a line."""
    found = []
    for number, line in enumerate(read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(LabelledPrediction.model_validate_json(line))
        except ValidationError as exc:
            wrong = exc.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, wrong["loc"])) or "(line)"
            raise Unusable(f"{path.name}, line {number}: {field}: {wrong['msg']}") from None
    return found


def read(path: Path) -> bytes:
    """A file; raises Unusable."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise Unusable(f"{path} cannot be read: {type(exc).__name__}") from exc
