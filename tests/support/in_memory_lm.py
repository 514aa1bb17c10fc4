"""The stand-in LM without a server: what it answers is the same, and each call counts."""

from __future__ import annotations

import threading
from typing import Any

import dspy

from standin_lm import answer


class InMemoryLM(dspy.BaseLM):
    """One that any thread may ask."""

    def __init__(self, before=lambda: None) -> None:
        super().__init__(model="openai/stand-in", cache=False, num_retries=0)
        self.before = before
        self.calls = 0
        self._lock = threading.Lock()

    def __deepcopy__(self, memo):
        return self

    def copy(self, **kwargs):
        return self

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> list[str]:
        self.before()
        with self._lock:
            self.calls += 1
        return [answer(messages or [{"role": "user", "content": prompt}])]
