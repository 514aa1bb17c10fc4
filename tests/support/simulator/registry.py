"""MLflow servers, and what the versions on them are really like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from despina.api.conditions import Reason
from despina.api.program import MlflowSource
from despina.decide.observed import Resolution
from despina.wire import ModelRef

VERSIONS = ("1", "2", "3", "4")
SERVER, OTHER_SERVER = "http://mlflow:5000", "http://other-mlflow:5000"


@dataclass(frozen=True)
class Nature:
    """What one version is really like. Nobody knows before it was tried."""

    broken: bool = False
    """It cannot be loaded."""
    code: str = "code"
    """Versions of different code never meet in one process."""
    errors: int = 0
    """Of 30 requests of callers, once they reach it."""
    slow: bool = False
    fails: frozenset[str] = frozenset()
    """The types of the gates that stop it."""

    @property
    def is_good(self) -> bool:
        """Whether there is no reason to give it up."""
        return not (self.broken or self.errors or self.slow or self.fails)


@dataclass
class Mlflow:
    """All servers. The versions with a nature of their own are those that stood on the first one from the beginning."""

    natures: Mapping[str, Nature] = field(default_factory=dict)
    aliases: dict[str, str | None] = field(default_factory=lambda: {SERVER: "1", OTHER_SERVER: "1"})
    made: int = 0
    """How often the model was deleted and made anew: the same numbers, other versions."""
    exists: bool = True
    is_up: bool = True

    def created(self, server: str) -> int:
        """When a server's versions were made."""
        return 1_000 + self.made if server == SERVER else 5_000

    def has_had(self, model: ModelRef) -> bool:
        """Whether a version once stood on its server. When it was made is not known while that is silent."""
        made = (None, *self._all(model.tracking_uri))
        return model.tracking_uri in (SERVER, OTHER_SERVER) and model.created_at in made

    def _all(self, server: str) -> Sequence[int]:
        """When the versions were made that a server has or had."""
        return range(1_000, 1_001 + self.made) if server == SERVER else (5_000,)

    def ever_meant(self, version: str, source: MlflowSource, default: str | None) -> list[ModelRef]:
        """What a number stands for now, or stood for, the latest first, and at last as a silent server leaves it."""
        now = self.meant(version, source, default)
        made = (*reversed(self._all(now.tracking_uri)), None)
        return [now.model_copy(update={"created_at": at}) for at in made]

    def meant(self, version: str, source: MlflowSource, default: str | None) -> ModelRef:
        """What a number stands for now."""
        server = source.tracking_uri or default or SERVER
        return ModelRef(name=source.model, version=version, tracking_uri=server, created_at=self.created(server))

    def nature(self, model: ModelRef) -> Nature:
        is_one_of_ours = (model.tracking_uri, model.created_at) == (SERVER, 1_000)
        return self.natures.get(model.version, Nature()) if is_one_of_ours else Nature()

    def answer(self, source: MlflowSource, default: str | None) -> Resolution:
        """What the operator is told."""
        server = source.tracking_uri or default or SERVER
        if not self.is_up:
            return Resolution(None, Reason.REGISTRY_UNREACHABLE)
        if not self.exists:
            return Resolution(None, Reason.MODEL_NOT_FOUND, "there is no such model")
        version = str(source.version) if source.version else self.aliases[server]
        created = dict.fromkeys(VERSIONS, self.created(server))
        reason, message = (
            (Reason.MODEL_FOUND, "") if version else (Reason.ALIAS_NOT_FOUND, "the model has no such alias")
        )
        return Resolution(version, reason, message, server=server, created=created)
