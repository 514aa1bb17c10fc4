"""Names of cached answers: pure functions of everything that an answer depends on.

Each begins with the namespace and the program, so that nothing is ever shared between two of them, and with an epoch,
so that an invalidation is a change of names: what was stored under the old ones cannot be found any more.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic_core import from_json, to_jsonable_python

from despina.wire import ContractConfig, LMConfig, RuntimeConfig

FORMAT = "2"
"""Another one for each form that is kept: pods of two releases may share a Redis."""


def digest(*parts: bytes) -> str:
    """32 hexadecimal digits; the parts cannot run into each other."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.hexdigest()


def as_json(value: Any) -> Any:
    """What pydantic parsed (nested models, images, sets, decimals), as JSON again."""
    return to_jsonable_python(value)


CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=as_json)
"""It keeps all digits of integers, and tells the infinities and NaN apart: orjson does neither."""


def canonical(document: Any) -> bytes:
    """The same bytes for the same JSON value, however its keys are ordered, and others for any other value."""
    return CANONICAL.encode(document).encode(errors="surrogatepass")


@functools.lru_cache(1024, typed=True)
def _again(*parts: Hashable) -> bytes:
    """The same of what comes with each request again."""
    return canonical(parts)


def written(document: Any) -> bytes | None:
    """As JSON, with what pydantic can write; keys keep their order, for a schema's is the order in which an LM answers.
    None for what cannot be written."""
    try:
        return orjson.dumps(document, default=as_json, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return None


@dataclass
class Keys:
    """The names within one program; `epoch` holds for all of it, `revision_epoch` for this revision."""

    config: RuntimeConfig
    epoch: str = ""
    revision_epoch: str = ""

    def of_lm(self, lm: LMConfig, question: bytes, rollout: Any = None) -> str:
        """An LM call: `question` is the messages and parameters as JSON. DSPy's own key leaves the endpoint and the key
        out and so mixes tenants; a rotated key keeps its answers here, since both belong to one program."""
        asked = _again(lm.base_url, lm.model, lm.api_key_file)
        return digest(self._owner(), b"lm", asked, canonical(rollout) if rollout is not None else b"", question)

    def of_answer(self, path: str, lm: str | None, temperature: float | None, body: bytes) -> str:
        """A whole answer of the program, or of its module at `path`.

        It depends on the JSON value of a body that was found valid, and not on the inputs that it was parsed to: what
        differs may be written alike (infinities, pydantic's secrets), and what is equal differently (sets).
        """
        warmth = None if temperature is None else temperature + 0.0  # -0 is 0
        where = _again(self.config.revision, self.revision_epoch, path, lm, warmth)
        return digest(self._owner(), b"answer", where, canonical(from_json(body)))

    def of_tool(self, tool: str, contract: ContractConfig, arguments: Any) -> str:
        """A tool's result; another contract is another question."""
        return digest(self._owner(), b"tool", canonical([tool, contract.model_dump()]), canonical(arguments))

    def _owner(self) -> bytes:
        return f"{FORMAT}/{self.config.namespace}/{self.config.program}/{self.epoch}".encode()
