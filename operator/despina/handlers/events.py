"""Which events wake which program or tool. There is nothing else here: every trigger leads to the same pass.

Only event handlers and a login are registered: kopf adds a finalizer or annotations to an object only for
change handlers, timers and daemons, and a program must be removable while the operator is down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from despina.api import GROUP, VERSION
from despina.api.base import is_object_name
from despina.desired.labels import PROGRAM, TOOL
from despina.reconcile.uses import Uses, tools_in

CHILDREN = (
    ("apps", "v1", "deployments"),
    ("", "v1", "services"),
    ("", "v1", "serviceaccounts"),
    ("", "v1", "configmaps"),
    ("", "v1", "pods"),
    ("discovery.k8s.io", "v1", "endpointslices"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("batch", "v1", "jobs"),
)


# Changes come in bursts, of which our own writes are a part: one pass after a burst does for all of it, and a
# program that is new does not wait behind the others' bursts.
BURST_SECONDS = 0.2

Wake = Callable[[tuple[str, str], float], None]


def build_registry(wake: Wake, wake_tool: Wake, uses: Uses) -> kopf.OperatorRegistry:
    """kopf's registry with all of Despina's handlers; they call `wake` or `wake_tool` with a key and seconds of delay.

    A tool that changes wakes the programs that use it, and a program that uses another tool wakes that. Handlers are
    coroutines though they await nothing: kopf runs others in threads, and the queue belongs to the event loop.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.scanning.disabled = True  # namespaces and kinds are known: no cluster-wide reads
        settings.watching.server_timeout = 270  # a watch that hangs is renewed before anyone wonders
        settings.watching.client_timeout = 300

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(GROUP, VERSION, "dspyprograms", registry=registry)
    async def program(type: str | None, namespace: str, name: str, body: Any, **_: Any) -> None:  # noqa: A002 - kopf's name
        wake((namespace, name), BURST_SECONDS if type == "MODIFIED" else 0.0)
        for key in uses.note((namespace, name), () if type == "DELETED" else tools_in(body, namespace)):
            wake_tool(key, BURST_SECONDS)

    @kopf.on.event(GROUP, VERSION, "dspytools", registry=registry)
    async def tool(namespace: str, name: str, **_: Any) -> None:
        wake_tool((namespace, name), BURST_SECONDS)
        for key in uses.programs_of((namespace, name)):
            wake(key, BURST_SECONDS)

    for resource in CHILDREN:

        @kopf.on.event(*resource, labels={PROGRAM: kopf.PRESENT}, registry=registry, id="child")
        async def child(type: str | None, namespace: str, labels: dict[str, str], **_: Any) -> None:  # noqa: A002 - kopf's name
            if is_object_name(labels[PROGRAM]):  # anybody may write a label; a key that is no name can never be read
                wake((namespace, labels[PROGRAM]), 0.0 if type == "DELETED" else BURST_SECONDS)

        @kopf.on.event(*resource, labels={TOOL: kopf.PRESENT}, registry=registry, id="child-of-tool")
        async def child_of_tool(namespace: str, labels: dict[str, str], **_: Any) -> None:
            if is_object_name(labels[TOOL]):
                wake_tool((namespace, labels[TOOL]), BURST_SECONDS)

    return registry
