"""One pass over one tool: observe, decide, execute, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from despina.api.tool import Backend, Tool
from despina.cluster.client import Cluster
from despina.cluster.observe import Unreadable, parse, read_manifest
from despina.cluster.tools import LiveTool, Mint, callers_of, observe_tool, secret_value
from despina.decide.observed import Defaults
from despina.decide.tool import ObservedTool, decide_tool
from despina.desired.toolbox import HOST_PORT, backend_url
from despina.reconcile.carry import Carrier, report_unreadable, write_status
from despina.reconcile.queue import Key
from despina.reconcile.uses import Uses
from despina.sources.probes import Probes, Target
from despina.sources.runtime_admin import address
from despina.status.tool import report_tool
from despina.wire.logs import ABOUT

log = logging.getLogger(__name__)
MOST_USERS = 20
ROTATION_SECONDS = 60.0
"""How often a token of somebody else's is read again: nobody tells when a Secret changes."""


@dataclass(frozen=True)
class ToolReconciler:
    """What a pass needs; calling it makes one."""

    cluster: Cluster
    probes: Probes
    uses: Uses
    mint: Mint
    defaults: Defaults
    watched: Sequence[str]
    clock: Callable[[], float] = time.time

    async def __call__(self, key: Key) -> float | None:
        """Take the next step; the result is when to look again, in seconds, though nothing happens."""
        ABOUT.set({"namespace": key[0], "tool": key[1]})
        manifest = await read_manifest(self.cluster, Tool.kind, *key)
        if manifest is None:
            self.probes.forget(key)
            return None
        tool = parse(Tool, manifest)
        if isinstance(tool, Unreadable):
            await report_unreadable(self.cluster, manifest, tool, self.clock())
            return None
        live = await observe_tool(self.cluster, tool, manifest)
        observed = await self._snapshot(key, tool, live)
        plan = decide_tool(observed)
        carrier = Carrier(tool, live.objects, self.cluster)
        await carrier.carry_out(plan.actions)
        status = report_tool(observed, plan, carrier.outcome, self.clock())
        late = await write_status(self.cluster, manifest, status.dump())
        health = tool.spec.health
        self.probes.watch(key, await self._targets(tool, live), health.period_seconds, health.timeout_seconds)
        waits = [again for again in (carrier.again, late) if again]
        if any(b.auth_secret_ref for b in tool.spec.backends):
            waits.append(ROTATION_SECONDS)
        return min(waits, default=None)

    async def _snapshot(self, key: Key, tool: Tool, live: LiveTool) -> ObservedTool:
        callers = await callers_of(self.cluster, tool, self.watched)
        return ObservedTool(
            tool=tool,
            status=live.status,
            defaults=self.defaults,
            tokens={namespace: self.mint(tool.uid, namespace) for namespace in callers},
            objects=live.objects,
            pods=live.pods,
            refused=live.refused,
            looks=self.probes.looks(key),
            used_by=tuple("/".join(program) for program in self.uses.programs_of(key))[:MOST_USERS],
        )

    async def _targets(self, tool: Tool, live: LiveTool) -> tuple[Target, ...]:
        return tuple([await self._target(tool, backend, live) for backend in tool.spec.backends])

    async def _target(self, tool: Tool, backend: Backend, live: LiveTool) -> Target:
        mcp, health, elsewhere = backend.mcp, tool.spec.health, (backend_url(tool, backend),)
        pods = [p for p in live.pods if p.revision == backend.name and p.ready and not p.ending and p.ip]
        return Target(
            backend=backend.name,
            tool=(mcp.tool if mcp else None) or tool.spec.contract.name,
            kind="Mcp" if mcp else "Http",
            urls=tuple(map(address, pods)) if backend.deployment else elsewhere,
            call_urls=tuple(address(p, HOST_PORT) for p in pods) if backend.deployment else elsewhere,
            probe=health.probe,
            arguments=health.arguments,
            transport=mcp.transport if mcp else "StreamableHTTP",
            token=await self._token(tool, backend),
        )

    async def _token(self, tool: Tool, backend: Backend) -> str | None:
        if backend.deployment:
            return self.mint(tool.uid, tool.namespace)[0]
        ref = backend.auth_secret_ref
        return await secret_value(self.cluster, tool.namespace, ref) if ref else None
