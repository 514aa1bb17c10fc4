"""Who somebody is and what they may do, as the API server says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from despina.api import GROUP
from despina.cluster.client import Cluster
from despina.cluster.reading import mapping, text

TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESSES = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


@dataclass(frozen=True)
class Person:
    """Somebody whom the API server knows, or a proxy vouches for."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, Any] = field(default_factory=dict, hash=False)


async def person_of(cluster: Cluster, token: str) -> Person | None:
    """Whose token it is; None for one that is nobody's. Raises ClusterError."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    status = mapping((await cluster.post(TOKENS, body)).get("status"))
    user, name = mapping(status.get("user")), text(mapping(status.get("user")).get("username"))
    if status.get("authenticated") is not True or not name:
        return None
    groups = tuple(g for g in user.get("groups") or () if isinstance(g, str))
    return Person(name, groups, text(user.get("uid")), mapping(user.get("extra")))


async def may(cluster: Cluster, person: Person, verb: str, namespace: str) -> bool:
    """Whether somebody may do this with the DSPyPrograms of a namespace. Raises ClusterError."""
    asked = {"group": GROUP, "resource": "dspyprograms", "verb": verb, "namespace": namespace}
    spec = {"user": person.name, "groups": list(person.groups), "resourceAttributes": asked}
    spec |= {"uid": person.uid} if person.uid else {}
    spec |= {"extra": person.extra} if person.extra else {}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    return mapping((await cluster.post(ACCESSES, body)).get("status")).get("allowed") is True
