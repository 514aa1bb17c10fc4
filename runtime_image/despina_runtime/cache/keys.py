"""Names of cached answers: pure functions of everything that an answer depends on.

Each begins with the namespace and the program, so that nothing is ever shared between two of them, and with an epoch,
so that an invalidation is a change of names: what was stored under the old ones cannot be found any more.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic_core import to_jsonable_python

from despina.wire import ContractConfig, LMConfig, RuntimeConfig

CANONICAL = orjson.OPT_SORT_KEYS


def digest(*parts: bytes) -> str:
    """32 hexadecimal digits; the parts cannot run into each other."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.hexdigest()


def canonical(document: Any) -> bytes:
    """The same bytes for the same JSON value, however its keys are ordered."""
    return orjson.dumps(document, option=CANONICAL, default=as_json)


def as_json(value: Any) -> Any:
    """What pydantic parsed (nested models, images, sets, decimals), as JSON again."""
    return to_jsonable_python(value)


@dataclass
class Keys:
    """The names within one program; `epoch` holds for all of it, `revision_epoch` for this revision."""

    config: RuntimeConfig
    epoch: str = ""
    revision_epoch: str = ""

    def of_lm(self, lm: LMConfig, messages: Any, params: dict[str, Any], rollout: Any = None) -> str:
        """An LM call. DSPy's own key leaves the endpoint and the key out and so mixes tenants; a rotated key keeps its
        answers here, since both belong to one program."""
        asked = [lm.base_url, lm.model, lm.api_key_file, messages, params, rollout]
        return digest(self._owner(), b"lm", canonical(asked))

    def of_answer(self, path: str, lm: str | None, temperature: float | None, inputs: Any) -> str:
        """A whole answer of the program, or of its module at `path`."""
        where = [self.config.revision, self.revision_epoch, path, lm, temperature]
        return digest(self._owner(), b"answer", canonical(where), canonical(inputs))

    def of_tool(self, tool: str, contract: ContractConfig, arguments: Any) -> str:
        """A tool's result; another contract is another question."""
        return digest(self._owner(), b"tool", canonical([tool, contract.model_dump()]), canonical(arguments))

    def _owner(self) -> bytes:
        return f"{self.config.namespace}/{self.config.program}/{self.epoch}".encode()
