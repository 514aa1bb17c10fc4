"""What is wrong with a spec that nothing can be built from."""

from __future__ import annotations

from despina.api.conditions import Reason
from despina.api.revision import tool_uses
from despina.decide.observed import Observed
from despina.desired.overlay import overlay_problem


def spec_problem(o: Observed) -> tuple[str, str] | None:
    """Why the spec cannot be built, as a reason and a message that names the field."""
    spec, profiles = o.program.spec, o.defaults.profiles
    if spec.placement.profile != "default" and spec.placement.profile not in profiles:
        valid = ", ".join(sorted({*profiles, "default"}))
        return (
            Reason.UNKNOWN_PROFILE,
            f"spec.placement.profile: {spec.placement.profile!r} is not one of {valid}",
        )
    problem = overlay_problem(spec.pod_template) if spec.pod_template is not None else None
    if problem:
        return Reason.INVALID_POD_TEMPLATE, problem
    return missing_tool(o)


def missing_tool(o: Observed) -> tuple[str, str] | None:
    """The first tool that the spec requires and that cannot be called by this program."""
    troubles = {v.key: v.trouble for v in o.tools if v.trouble}
    for use, known in zip(o.program.spec.tools, tool_uses(o.program), strict=True):
        if use.policy == "Required" and (trouble := troubles.get(known.tool)):
            reason = Reason.TOOL_NOT_FOUND if trouble[0] == "NotFound" else Reason.TOOL_NOT_ALLOWED
            return reason, f"spec.tools[{use.name}]: {trouble[1]}"
    return None
