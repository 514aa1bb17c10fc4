"""Variables that a caller sets once for many requests: which LM, and at what temperature.

They live where every worker that may get the session's next request sees them: in Redis when there is one, else on the
pod's disk (then the Service should be sticky: `sessions.affinity`). While Redis is down, the disk's copy counts.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from despina_runtime.cache.store import tried
from despina_runtime.cache.tiers import NodeTier
from despina_runtime.problem import Problem, invalid_input

if TYPE_CHECKING:
    from despina_runtime.cache.redis import RedisTier

ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
SIZE_BYTES = 64 * 2**20
UNFIT = "A session cannot have these variables"


class Variables(BaseModel):
    """What a session may set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lm: str | None = Field(default=None, description="A name of the manifest's `lms`.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="The sampling temperature.")


class Sessions:
    """The variables of all sessions."""

    def __init__(self, folder: Path, ttl_seconds: int, redis: RedisTier | None, lms: list[str]) -> None:
        self._node = NodeTier(folder / "sessions", SIZE_BYTES, ttl_seconds)
        self._redis = redis
        self._lms = lms

    def beside(self, lms: list[str]) -> Sessions:
        """The same sessions for another revision of the program, which may know other LMs."""
        other = copy.copy(self)
        other._lms = lms
        return other

    async def get(self, session: str) -> Variables:
        """The session's variables; none are set in one that is not known."""
        key = f"session:{check_id(session)}"
        theirs = _read(await self._redis.get(key)) if self._redis else None
        variables = theirs or _read(tried(self._node, lambda: self._node.get(key))) or Variables()
        # Sessions outlive releases: an LM that the manifest no longer lists is as if it had not been chosen.
        return variables if variables.lm in self._lms else variables.model_copy(update={"lm": None})

    async def put(self, session: str, body: bytes) -> Variables:
        """Set the session's variables, all at once."""
        key = f"session:{check_id(session)}"
        try:
            variables = Variables.model_validate_json(body)
        except ValidationError as exc:
            raise invalid_input(exc, UNFIT) from None
        self.check_lm(variables.lm)
        value = orjson.dumps(variables.model_dump(exclude_none=True))
        if self._redis:
            await self._redis.put(key, value)
            tried(self._node, lambda: self._node.put(key, value))
        else:
            self._node.put(key, value)
        return variables

    async def delete(self, session: str) -> None:
        """Forget a session."""
        key = f"session:{check_id(session)}"
        self._node.drop(key)
        if self._redis:
            await self._redis.drop(key)

    def check_lm(self, name: str | None) -> None:
        """Problem 422 for an LM that the manifest does not list."""
        if name is not None and name not in self._lms:
            detail = f"the manifest lists {', '.join(self._lms) or 'none'}"
            raise Problem(
                422, "unknown-lm", "There is no LM of that name", detail, ({"field": "lm", "message": detail},)
            )

    def close(self) -> None:
        """Give the file back."""
        self._node.close()


def _read(found: bytes | None) -> Variables | None:
    """None for what is not there, or is none of this release's."""
    try:
        return Variables.model_validate_json(found) if found else None
    except ValidationError:
        return None


def check_id(session: str) -> str:
    """A session's id; Problem 400 for what cannot be one."""
    if not ID.fullmatch(session):
        raise Problem(400, "invalid-session", "A session's id has 1 to 128 characters of A-Z a-z 0-9 . _ ~ -")
    return session
