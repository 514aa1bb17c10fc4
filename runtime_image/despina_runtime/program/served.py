"""What DSPy has once for a whole process, made fit for one that serves requests: `dspy.configure`, what it logs, and
how many tries a module has left.

Only processes that serve call `prepare`; on a laptop DSPy stays as it is.
"""

from __future__ import annotations

import logging
import secrets
import sys
from typing import Any

from despina_runtime import compat
from despina_runtime.lm.client import NoLM
from despina_runtime.tools.api import serve_requests_only

log = logging.getLogger(__name__)
_the_manifests: set[str] = set()
"""Settings that a program cannot configure, for its manifest has done so."""
_nobody_knows = secrets.token_hex(16)


def prepare(has_lm: bool) -> None:
    """Before a program is loaded. `has_lm`: the manifest names an LM."""
    compat.configure_by(_configure)
    compat.print_by(_tell_the_kind)
    compat.count_tries_by_call()
    serve_requests_only()
    compat.mark_types_by(_nobody_knows)
    if has_lm:
        _the_manifests.update(("lm", "adapter"))
        compat.process_settings["lm"] = compat.process_settings["lm"] or NoLM()
    for handler in logging.getLogger("dspy").handlers:
        handler.addFilter(_tell_no_words)


def _configure(settings: Any, **wanted: Any) -> None:
    """In a request for the call that is under way, else for the process. DSPy lets one thread configure it; but
    revisions are loaded in any, and requests run in all."""
    own = {name: value for name, value in wanted.items() if name not in _the_manifests}
    if "meter" in compat.own_settings():
        compat.set_own(**own)
    else:
        compat.process_settings.update(own)


def _tell_no_words(record: logging.LogRecord) -> bool:
    """DSPy quotes errors and the inputs that led to them, which are callers' words: an error's kind has to do."""
    if error := sys.exc_info()[1]:
        record.msg, record.args = f"Failed in={record.funcName} error={type(error).__name__}", None
        record.exc_info = None
    return True


def _tell_the_kind(*_: object) -> None:
    log.warning("A try failed error=%s", type(sys.exc_info()[1]).__name__)
