"""What an optimisation is about, before anything is asked of an LM: pure functions, but for reading its data."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from despina.wire import FeedbackConfig, OptimizationConfig
from despina_runtime.cache.keys import canonical
from despina_runtime.evaluation.examples import Line, Unusable, load_lines
from despina_runtime.optimization.budget import Limits
from despina_runtime.optimization.datasets import Dataset, IsHidden, LabelledPrediction, make_dataset
from despina_runtime.optimization.labels import Experiment, Labels
from despina_runtime.telemetry.redaction import HIDDEN, Redactor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The data."""

    config: OptimizationConfig
    dataset: Dataset
    golden: tuple[Line, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many labels and inputs gave no row, by why."""

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
        found, wanted = len(self.dataset.heldout), self.config.promotion.min_examples
        if not (self.dataset.train and self.dataset.validation):
            why = "there are no labelled rows to learn from: labels need `expected`, or must be of successes"
        elif found < wanted:
            why = f"{found} held-out rows of trusted sources, and it takes {wanted}"
        else:
            return ""
        others = ", ".join(f"{number} {reason}" for reason, number in sorted(self.left_out.items()))
        return f"{why}; left out: {others}" if others else why


def _digest(document: Any) -> str:
    return hashlib.sha256(canonical(document)).hexdigest()


def read_plan(config: OptimizationConfig) -> Plan:
    """Read labels and golden rows; raises Unusable."""
    golden = _golden(config)
    labels, rules = _labels(config), config.labels
    dataset = make_dataset(
        labels.predictions,
        group_by=rules.group_by,
        max_percent_per_source=rules.max_percent_per_source,
        is_hidden=hidden_by(config.base.feedback),
    )
    left_out = Counter(labels.left_out) + Counter(dataset.left_out)
    log.info("Read labels=%d left_out=%s golden=%d", len(labels.predictions), dict(left_out), len(golden))
    return Plan(config, dataset, golden, left_out)


def _golden(config: OptimizationConfig) -> tuple[Line, ...]:
    """What a golden set holds; none where none is wanted."""
    if config.golden is None:
        return ()
    base = config.base
    lines = tuple(load_lines(config.golden, base.model.tracking_uri, base.mlflow_credentials_dir))
    if not lines:
        raise Unusable("the golden set holds no examples")
    try:
        canonical(lines)
    except (TypeError, ValueError) as exc:
        raise Unusable(f"an example of the golden set holds what is not JSON: {exc}") from exc
    return lines


def _labels(config: OptimizationConfig) -> Labels:
    asked, base = config.labels, config.base
    if asked.experiment is not None:
        return Experiment(base.model, base.mlflow_credentials_dir, asked.experiment).read(asked.until)
    if asked.file is None:
        raise Unusable("nothing says where labels are: neither a file nor an experiment")
    given = read_labels(Path(asked.file))
    return Labels(tuple(one for one in given if asked.until is None or one.at <= asked.until))


def hidden_by(feedback: FeedbackConfig | None) -> IsHidden:
    """Whether redaction has hidden something of a JSON value, or would: also where all is recorded, no row is made of
    it, for rows are read by people and optimisers."""
    own = feedback or FeedbackConfig()
    hide = Redactor(own.redacted_fields, own.redacted_patterns)
    return lambda value: hide(value) != value or HIDDEN.encode() in canonical(value)


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
