"""Python imports this before all else where its folder is on the path: a pod of `make bench-telemetry` that counts
nothing, or records no trace, for what that costs cannot be turned off."""

from __future__ import annotations

import os

if what := os.environ.get("DESPINA_BENCH_UNTOLD", ""):
    from despina_runtime.lm.target import Target
    from despina_runtime.pipeline.record import Record
    from despina_runtime.pipeline.recorded import Recorded
    from despina_runtime.telemetry.counting import Times

    async def _unrecorded(self, call):
        return await self._then(call)

    if what == "figures":
        Record.__call__ = Times.__call__ = Target._count = lambda *_, **__: None
    else:
        Recorded.__call__ = _unrecorded
