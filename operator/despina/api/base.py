"""What every type of the API shares: camelCase names, no unknown fields, and marks for the CRD generator."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from despina.api import API_VERSION


class ApiModel(BaseModel):
    """A frozen part of a manifest. The docstring under a field becomes its description in the CRD."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def dump(self) -> dict[str, Any]:
        """The manifest's own form: camelCase, without the fields that were left out."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")


class Owner(ApiModel):
    """An object of ours as the operator knows it; the objects that are made for it name it as their owner."""

    kind: ClassVar[str]
    namespace: str
    name: str
    uid: str = ""
    generation: int = 0
    annotations: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def parse(cls, manifest: dict[str, Any]) -> Self:
        """Read a manifest; raises pydantic's ValidationError, whose locations name the fields."""
        if manifest.get("apiVersion") != API_VERSION or manifest.get("kind") != cls.kind:
            raise ValueError(f"apiVersion and kind must be {API_VERSION} and {cls.kind}")
        meta = manifest.get("metadata") or {}
        if not isinstance(meta, dict):
            raise ValueError("metadata must be a mapping")
        return cls.model_validate(
            {
                "namespace": meta.get("namespace", "default"),
                "name": meta.get("name"),
                "uid": meta.get("uid", ""),
                "generation": meta.get("generation", 0),
                "annotations": meta.get("annotations") or {},
                "spec": manifest.get("spec") or {},
            }
        )


def rule(cel: str, message: str, field_path: str | None = None) -> JsonDict:
    """Mark a type with a CEL validation rule; `message` must name the field, for it is all that a user sees."""
    where: JsonDict = {"fieldPath": field_path} if field_path else {}
    return {"x-kubernetes-validations": [{"rule": cel, "message": message, **where}]}


def rules(*each: JsonDict) -> JsonDict:
    """Several CEL rules on one type."""
    return {"x-kubernetes-validations": [r for one in each for r in one["x-kubernetes-validations"]]}  # type: ignore


def cut(length: int) -> BeforeValidator:
    """Mark a text of a status. It is cut where it is too long, and half characters are replaced: a message must never
    keep a status from being written."""

    def shortened(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        clean = text.encode(errors="replace").decode()
        return clean if len(clean) <= length else f"{clean[: length - 1]}…"

    return BeforeValidator(shortened)


# What a status says, by how much room it has.
Word = Annotated[str, cut(253), StringConstraints(max_length=253)]
Sentence = Annotated[str, cut(1024), StringConstraints(max_length=1024)]
Address = Annotated[str, cut(2048), StringConstraints(max_length=2048)]
Text = Annotated[str, cut(4096), StringConstraints(max_length=4096)]
# The API server estimates what a CEL rule costs from these bounds and refuses a CRD without them.
ShortStr = Annotated[str, StringConstraints(min_length=1, max_length=253)]
LongStr = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
# No user and password: an address is shown in logs and conditions.
UrlStr = Annotated[str, StringConstraints(pattern=r"^https?://[^/@]+(/[^@]*)?$", max_length=2048)]
# No query and no fragment either: paths are put behind it.
ServerStr = Annotated[str, StringConstraints(pattern=r"^https?://[^/@?#]+(/[^@?#]*)?$", max_length=2048)]
ToolName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z][a-z0-9-]*$")]
# What Kubernetes calls DNS-1123 labels (namespaces, Services) and subdomains (Secrets, ConfigMaps, service accounts).
# Such a name goes into the path of a request, so nothing else may ever be taken for one.
LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
LABEL_LENGTH, SUBDOMAIN_LENGTH = 63, 253


def is_object_name(text: str) -> bool:
    """Whether there can be an object of this name."""
    return is_name(text, SUBDOMAIN, SUBDOMAIN_LENGTH)


def is_name(text: str, pattern: str, length: int) -> bool:
    """Whether a text is a name of a kind."""
    return len(text) <= length and re.fullmatch(pattern, text) is not None


NameStr = Annotated[str, StringConstraints(max_length=LABEL_LENGTH, pattern=LABEL)]
ObjectName = Annotated[str, StringConstraints(max_length=SUBDOMAIN_LENGTH, pattern=SUBDOMAIN)]
# It becomes a file's name; . and .. are none.
DataKey = Annotated[str, StringConstraints(max_length=253, pattern=r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$")]
LabelMap = Annotated[dict[str, Annotated[str, StringConstraints(max_length=253)]], Field(max_length=32)]

MAX_DEPTH = 64


def _is_shallow(document: dict[str, Any]) -> dict[str, Any]:
    """A structural schema has no word for how deep a field may be nested whose content it does not know."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
        level = [part for part in level if isinstance(part, dict | list)]
        if not level:
            return document
    raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")


SHALLOW = AfterValidator(_is_shallow)
Preserved = Annotated[dict[str, Any], SHALLOW, Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
# Numbers with or without suffix, as Kubernetes' own types have them; but nobody can ask for less than nothing.
QUANTITY = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
Quantity = Annotated[
    Annotated[int, Field(ge=0, strict=True)] | Annotated[str, StringConstraints(max_length=32, pattern=QUANTITY)],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True, "minimum": 0, "maxLength": 32, "pattern": QUANTITY}),
]
ResourceName = Annotated[
    str,
    StringConstraints(
        max_length=317, pattern=f"^({SUBDOMAIN[1:-1]}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
    ),
]
# Patterns of keys are no part of a structural schema, and CEL may not spend what matching them could cost.
QuantityMap = Annotated[
    dict[Annotated[ResourceName, WithJsonSchema({"type": "string"})], Quantity],
    Field(max_length=16, json_schema_extra=rule("self.all(name, size(name) <= 317)", "a resource's name is too long")),
]


def map_list(key: str) -> dict[str, Any]:
    """Mark a list whose items are told apart by one key, so that server-side apply merges it by item."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
