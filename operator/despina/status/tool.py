"""The status of a tool, computed once at the end of each pass from facts alone."""

from __future__ import annotations

from despina.api.conditions import Reason, ToolType, Type
from despina.api.tool import BackendStatus, ToolStatus
from despina.decide.plan import Outcome
from despina.decide.quarantine import timestamp
from despina.decide.tool import ObservedTool, ToolPlan
from despina.desired.labels import TOOL
from despina.desired.tool import hosted
from despina.status.conditions import Finding, merge

USED = ("Healthy", "Slow")
MISMATCHES = (Reason.CONTRACT_MISMATCH, Reason.TOOL_NOT_OFFERED)


def report_tool(o: ObservedTool, plan: ToolPlan, outcome: Outcome, now: float) -> ToolStatus:
    """What the operator knows, for users and for the programs that use the tool."""
    verified = contract_verified(plan)
    found = (ready(plan, outcome), available(plan), verified, backends_healthy(plan))
    has_pods = bool(hosted(o.tool))
    return ToolStatus(
        observed_generation=o.tool.generation,
        conditions=merge(o.status.conditions, found, o.tool.generation, timestamp(now)),
        url=f"http://{o.tool.name}.{o.tool.namespace}.svc.{o.defaults.cluster_domain}" if has_pods else None,
        backends=plan.backends,
        healthy_backends=f"{sum(b.state in USED for b in plan.backends)}/{len(plan.backends)}",
        contract={True: "Verified", False: "Mismatch", None: "Unknown"}[verified.status],
        used_by=o.used_by,
        replicas=sum(not p.ending for p in o.pods),
        ready_replicas=sum(p.ready and not p.ending for p in o.pods),
        selector=f"{TOOL}={o.tool.name}" if has_pods else "",
    )


def available(plan: ToolPlan) -> Finding:
    """Whether a call can succeed. One dead backend does not make a tool unavailable."""
    if any(b.state in USED for b in plan.backends):
        return Finding(Type.AVAILABLE, True, Reason.USABLE)
    return Finding(Type.AVAILABLE, False, Reason.NO_BACKEND_USABLE, _told(plan.backends))


def ready(plan: ToolPlan, outcome: Outcome) -> Finding:
    """Available, with a spec that is accepted."""
    if plan.problems:
        return Finding(Type.READY, False, *plan.problems[0])
    if outcome.error:
        return Finding(Type.READY, False, Reason.REJECTED, outcome.error)
    base = available(plan)
    if base.status is False and len(plan.backends) == 1:
        return Finding(Type.READY, False, plan.backends[0].reason or base.reason, base.message)
    return Finding(Type.READY, base.status, base.reason, base.message)


def contract_verified(plan: ToolPlan) -> Finding:
    """Whether the backends offer what the contract says."""
    wrong = [b for b in plan.backends if b.reason in MISMATCHES]
    if wrong:
        return Finding(ToolType.CONTRACT_VERIFIED, False, wrong[0].reason, _told(wrong))
    if any(b.schema_digest for b in plan.backends):
        return Finding(ToolType.CONTRACT_VERIFIED, True, Reason.VERIFIED)
    return Finding(ToolType.CONTRACT_VERIFIED, None, Reason.NOT_ASKED_YET)


def backends_healthy(plan: ToolPlan) -> Finding:
    """Whether all backends can be used."""
    unwell = [b for b in plan.backends if b.state != "Healthy"]
    if not unwell:
        return Finding(ToolType.BACKENDS_HEALTHY, True, Reason.USABLE)
    status = None if all(b.state == "Unknown" for b in unwell) else False
    return Finding(ToolType.BACKENDS_HEALTHY, status, Reason.SOME_BACKENDS_UNHEALTHY, _told(unwell))


def _told(backends: list[BackendStatus] | tuple[BackendStatus, ...]) -> str:
    return "; ".join(f"{b.name}: {b.reason or b.state}: {b.message}".removesuffix(": ") for b in backends)
