"""A revision: what a user asked for, together with the model version it stands for right now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from despina.api.base import ApiModel
from despina.api.feedback import Feedback
from despina.api.program import Module, Program, WarmUp
from despina.api.serving import LM, Cache, ProgramBreaker, SecretKeyRef
from despina.wire import (
    REDIS_SEAL,
    SECRETS_DIR,
    TOOL_TOKENS_DIR,
    BreakerConfig,
    CacheConfig,
    FallbackConfig,
    FeedbackConfig,
    LimitsConfig,
    LMConfig,
    ModelRef,
    ModuleConfig,
    Price,
    ProgramBreakerConfig,
    RedisConfig,
    RuntimeConfig,
    ToolUse,
    WarmUpConfig,
)
from despina.wire.logs import LogFormat

# Size, delays and the alias are not part of a revision: changing them must not restart anything.
RELEVANT = (
    "runtime", "lms", "lm", "fallbacks", "modules", "warmUp", "tools", "cache", "limits", "breaker", "fallback",
    "feedback", "optimization", "placement", "resources", "podTemplate", "serviceAccount", "security",
)  # fmt: skip
SWAPPABLE = ("lms", "lm", "fallbacks", "modules", "warmUp", "tools")
FIRST_DEFAULTS: dict[str, Any] = {}
"""The first default of each field, as `Model.field`, whose default was changed since. The API server has stored it with
the objects of then, and they must stay the revisions that they were."""
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class Revision(ApiModel):
    """One set of pods that are all alike."""

    hash: str
    """Eight hexadecimal digits over the relevant spec and the model version's identity."""
    model: ModelRef
    deployment: str
    base: str
    """The label of its pods: its own hash, or that of the Deployment in whose processes it is loaded."""

    @property
    def version(self) -> str:
        """The model version's number."""
        return self.model.version


def digest(document: Any) -> str:
    """Eight hexadecimal digits that change exactly when the document does."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def source_digest(model: ModelRef) -> str:
    """Eight hexadecimal digits that tell one version from every other, also from one of the same number."""
    return digest(model.model_dump())


def revision_of(program: Program, model: ModelRef) -> Revision:
    """The revision that a program means when it is to serve `model`."""
    hash8 = digest([asked_of(program), model.model_dump()])
    return Revision(hash=hash8, model=model, deployment=f"{program.name}-{hash8}", base=hash8)


def asked_of(program: Program) -> dict[str, Any]:
    """The relevant parts of a spec, without what is as it was by default when its field first came: neither a field nor
    a default of a later operator may change the revision of those who never set it."""
    spec = without_first_defaults(program.spec)
    if program.spec.tools:
        spec["tools"] = [use.model_dump(exclude_defaults=True) for use in tool_uses(program)]
    optimization = program.spec.optimization
    if optimization and optimization.requests == "Enabled":  # of the rest, pods know nothing
        spec["optimization"] = {"requests": "Enabled"}
    else:
        spec.pop("optimization", None)
    secret = program.spec.source.mlflow.credentials_secret_ref
    credentials = {"credentials": secret.name} if secret else {}
    return {field: spec[field] for field in RELEVANT if field in spec} | credentials


def without_first_defaults(part: BaseModel) -> dict[str, Any]:
    """A part of a manifest in its own form, without what is as it was by default at first."""
    found = {}
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        is_left_out = value is None or (not field.is_required() and value == first_default(type(part), name))
        document = None if is_left_out else _document(value)
        if document is not None and (document or field.default_factory is None):
            found[field.alias or name] = document
    return found


def first_default(model: type[BaseModel], name: str) -> Any:
    """What a field was by default when it first came."""
    return FIRST_DEFAULTS.get(f"{model.__name__}.{name}", model.model_fields[name].default)


def _document(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return without_first_defaults(value)
    return [_document(one) for one in value] if isinstance(value, tuple) else value


def shape_of(program: Program, model: ModelRef, default_image: str) -> dict[str, str]:
    """What pods must be started anew for, part by part: a revision of equal shape can be loaded beside another.

    The image belongs to it, though not to the revision: a new operator's default image restarts nobody, and comes with
    the next release.
    """
    parts = {name: part for name, part in asked_of(program).items() if name not in SWAPPABLE}
    secrets: list[Any] = sorted({(ref.name, ref.key) for ref in secret_refs(program)})
    ref = program.spec.source.mlflow.credentials_secret_ref
    secrets += [ref.name] if ref else []
    parts |= {"source": [model.name, model.tracking_uri], "image": program.spec.runtime.image or default_image}
    parts |= {"Secrets": secrets} if secrets else {}
    parts["mounts"] = digest("tools")  # pods that an older operator made lack them
    return {name: digest(part) for name, part in parts.items()}


def tool_uses(program: Program) -> tuple[ToolUse, ...]:
    """The tools that the spec lists, by the names that the program calls them by."""
    return tuple(
        ToolUse(
            name=use.name,
            tool=f"{use.ref.namespace or program.namespace}/{use.ref.name}",
            timeout_seconds=use.timeout_seconds,
        )
        for use in program.spec.tools
    )


def secret_path(secret: str, key: str, root: str = SECRETS_DIR) -> str:
    """Where a Secret's key is mounted in the pod."""
    return f"{root}/{secret}/{key}"


def mlflow_credentials_dir(program: Program, root: str = SECRETS_DIR) -> str | None:
    """Where the program's own credentials for MLflow are mounted in the pod."""
    ref = program.spec.source.mlflow.credentials_secret_ref
    return f"{root}/{ref.name}" if ref else None


def runtime_config(
    program: Program,
    revision: Revision,
    order_keys: tuple[str, ...] = (),
    secrets_dir: str = SECRETS_DIR,
    read_key: str = "",
    ask_key: str = "",
    log_format: LogFormat = "text",
) -> RuntimeConfig:
    """The document that a pod of this revision runs by; `make try` builds its own with the same function."""
    spec, runtime = program.spec, program.spec.runtime

    def path(ref: SecretKeyRef | None) -> str | None:
        return secret_path(ref.name, ref.key, secrets_dir) if ref else None

    seal_file = f"{TOOL_TOKENS_DIR}/{REDIS_SEAL}" if order_keys else None  # an operator makes both

    return RuntimeConfig(
        namespace=program.namespace,
        program=program.name,
        revision=revision.hash,
        model=revision.model,
        mlflow_credentials_dir=mlflow_credentials_dir(program, secrets_dir),
        lms=tuple(_lm(lm, path(lm.api_key_secret_ref)) for lm in spec.lms),
        lm=spec.lm or (spec.lms[0].name if spec.lms else None),
        fallbacks=spec.fallbacks,
        modules=tuple(_module(m) for m in spec.modules),
        tools=tool_uses(program),
        warm_up=_warm_up(spec.warm_up),
        allow_pickle=spec.security.pickle == "Allow",
        workers=runtime.workers,
        replicas=spec.autoscaling.min_replicas if spec.autoscaling else max(1, spec.replicas),
        max_concurrency=runtime.max_concurrency,
        request_timeout_seconds=runtime.request_timeout_seconds,
        drain_seconds=runtime.drain_seconds,
        port=runtime.port,
        cache=_cache(spec.cache, path, seal_file) if spec.cache else None,
        limits=LimitsConfig(**spec.limits.model_dump()),
        breaker=_breaker(spec.breaker) if spec.breaker else None,
        fallback=_fallback(program),
        feedback=_feedback(program, spec.feedback, path) if spec.feedback else None,
        optimize_requests=spec.optimization is not None and spec.optimization.requests == "Enabled",
        auth_token_file=path(spec.security.auth.secret_ref),
        session_ttl_seconds=spec.sessions.ttl_seconds,
        order_keys=order_keys,
        read_key=read_key,
        ask_key=ask_key,
        log_format=log_format,
    )


def _lm(lm: LM, key_file: str | None) -> LMConfig:
    return LMConfig(
        name=lm.name,
        model=lm.model,
        base_url=lm.base_url,
        api_key_file=key_file,
        params=lm.params,
        request_timeout_seconds=lm.request_timeout_seconds,
        retries=lm.retries,
        adapter=lm.adapter,
        structured_output=lm.structured_output == "Enabled",
        price=Price(**lm.price.model_dump()) if lm.price else None,
        breaker=BreakerConfig(**lm.breaker.model_dump()) if lm.breaker else None,
    )


def _module(module: Module) -> ModuleConfig:
    version = str(module.source.version) if module.source else None
    return ModuleConfig(path=module.path, lm=module.lm, version=version)


def _warm_up(warm_up: WarmUp) -> WarmUpConfig:
    outputs = {module.path: module.values for module in warm_up.outputs}
    return WarmUpConfig(is_enabled=warm_up.mode == "Enabled", outputs=outputs)


def _cache(cache: Cache, path: Callable[[SecretKeyRef], str | None], seal_file: str | None) -> CacheConfig:
    redis = cache.redis
    return CacheConfig(
        process_entries=cache.process.max_entries,
        process_ttl_seconds=cache.process.ttl_seconds,
        node_bytes=size(cache.node.size_limit) if cache.node.type == "EmptyDir" else 0,
        redis=RedisConfig(
            url_file=path(redis.url_secret_ref) or "",
            key_prefix=redis.key_prefix,
            ttl_seconds=redis.ttl_seconds,
            seal_file=seal_file,
        )
        if redis
        else None,
        scope=cache.key_scope,
        single_flight=cache.single_flight == "Enabled",
    )


def _breaker(breaker: ProgramBreaker) -> ProgramBreakerConfig:
    own = breaker.model_dump(exclude={"on_open", "restart"})
    return ProgramBreakerConfig(**own, falls_back="Fallback" in breaker.on_open)


def _fallback(program: Program) -> FallbackConfig | None:
    fallback = program.spec.fallback
    if fallback is None:
        return None
    other = fallback.program_ref
    return FallbackConfig(
        response=fallback.response, url=f"http://{other.name}.{program.namespace}/execute" if other else None
    )


def _feedback(
    program: Program, feedback: Feedback, path: Callable[[SecretKeyRef | None], str | None]
) -> FeedbackConfig:
    sink = feedback.sink
    return FeedbackConfig(
        payloads=feedback.payloads,
        redacted_fields=feedback.redaction.fields,
        redacted_patterns=feedback.redaction.patterns,
        sample_percent=feedback.sample_percent,
        label_within_seconds=feedback.label_within_seconds,
        spool_bytes=size(feedback.spool_size_limit),
        experiment=experiment_of(program, feedback),
        folder=sink.json_lines.folder if sink.json_lines else "",
        trusted_token_file=path(feedback.trusted_secret_ref),
    )


def experiment_of(program: Program, feedback: Feedback) -> str:
    """The experiment that predictions and labels go to."""
    named = feedback.sink.mlflow.experiment if feedback.sink.mlflow else None
    return named or f"{program.namespace}/{program.name}"


def size(quantity: str) -> int:
    """Bytes of a quantity such as 512Mi."""
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def named_versions(program: Program) -> frozenset[str]:
    """The model's versions that the spec names by number, beside the source's own."""
    spec = program.spec
    numbers = [spec.rollout.rollback_to, *(m.source.version for m in spec.modules if m.source)]
    return frozenset(str(number) for number in numbers if number is not None)


def secret_refs(program: Program) -> list[SecretKeyRef]:
    """Every key of a Secret without which the program's pods cannot start."""
    spec = program.spec
    refs = [lm.api_key_secret_ref for lm in spec.lms]
    refs += [
        spec.cache.redis.url_secret_ref if spec.cache and spec.cache.redis else None,
        spec.security.auth.secret_ref,
        spec.feedback.trusted_secret_ref if spec.feedback else None,
    ]
    return [ref for ref in refs if ref]
