"""What is around a process of a pod: signals, the environment, the kubelet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from despina.wire import SECRET_CHECK_ENV, TERMINATION_LOG, TERMINATION_LOG_ENV


def prepare_environment() -> None:
    """What every worker inherits; keys that only make the kubelet check a Secret go no further."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    for name in [n for n in os.environ if n.startswith(SECRET_CHECK_ENV)]:
        del os.environ[name]


def on_signals(stop: asyncio.Event) -> None:
    """Set an event on SIGTERM and SIGINT."""
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)


def leave_word(text: str) -> None:
    """Tell the kubelet, for the operator to read."""
    path = Path(os.environ.get(TERMINATION_LOG_ENV, TERMINATION_LOG))
    with contextlib.suppress(OSError):
        path.write_text(text)
