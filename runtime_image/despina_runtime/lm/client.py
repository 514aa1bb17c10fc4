"""DSPy LMs from the manifest. The manifest alone says which LM a program uses: none is taken from the artefact,
and DSPy's global configuration is never touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy

from despina.wire import LMConfig, RuntimeConfig


class LMs:
    """The program's LMs; one whose key file changes is made anew."""

    def __init__(self, config: RuntimeConfig) -> None:
        self._config = {lm.name: lm for lm in config.lms}
        self._default = config.lm
        self._made: dict[str, tuple[int, dspy.LM]] = {}

    def current(self) -> dspy.LM | None:
        """The LM that `spec.lm` names; None for a program without LMs."""
        return self.get(self._default) if self._default else None

    def get(self, name: str) -> dspy.LM:
        """One LM by its name in the manifest."""
        config = self._config[name]
        stamp = _stamp(config.api_key_file)
        made = self._made.get(name)
        if made is None or made[0] != stamp:
            made = self._made[name] = stamp, make_lm(config)
        return made[1]


def _stamp(path: str | None) -> int:
    """Changes when the mounted key does; 0 without a file."""
    try:
        return Path(path).stat().st_mtime_ns if path else 0
    except FileNotFoundError:
        return 0


def make_lm(config: LMConfig) -> dspy.LM:
    """A DSPy LM. Caching is Despina's business and histories hold callers' words, so both are off.

    An OpenAI-compatible server of one's own often wants no key, but the client insists on one.
    """
    options: dict[str, Any] = {"timeout": config.request_timeout_seconds, **config.params}
    if config.base_url:
        options["api_base"] = config.base_url
    key = _read_key(config.api_key_file)
    if key or config.base_url:
        options["api_key"] = key or "none"
    return dspy.LM(config.model, cache=False, num_retries=config.retries, **options)


def _read_key(path: str | None) -> str | None:
    try:
        return Path(path).read_text().strip() if path else None
    except FileNotFoundError:
        return None
