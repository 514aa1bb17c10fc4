"""Tools on AWS: embeddings and chat by Amazon Bedrock, and models on SageMaker endpoints.

Credentials come from boto3's default chain alone (a role by web identity, as IRSA gives it to a service account; an
instance's role; the environment), the region from AWS_REGION. Retries are the caller's, who knows whether a call may be
made again, so boto3 makes none.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Annotated, Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    TokenRetrievalError,
)
from pydantic import BaseModel, Field

from despina_runtime.tools.errors import NotReady

__all__ = ["bedrock_converse", "bedrock_embed", "sagemaker_invoke"]
TITAN = "amazon.titan-embed-text-v2:0"
CONFIG = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=120, max_pool_connections=64)
MISSING = (
    "no AWS credentials were found: give the service account a role (spec.serviceAccount.annotations"
    " eks.amazonaws.com/role-arn, or the placement profile's), or run where an instance role is"
)
DENIED = {
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "UnrecognizedClientException",
}


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str


class Converse(BaseModel):
    """What a chat model answered."""

    text: str
    stop_reason: str
    input_tokens: int
    output_tokens: int


def check() -> None:
    """Whether credentials can be had; raises NotReady."""
    with_credentials(lambda: _session().get_credentials() and _session().get_credentials().get_frozen_credentials())


def bedrock_embed(
    texts: Annotated[list[str], Field(min_length=1, max_length=256)],
    model: str = TITAN,
    dimensions: Literal[256, 512, 1024] = 1024,
    normalize: bool = True,
) -> list[list[float]]:
    """Embeddings of texts by Amazon Titan Text Embeddings V2: one vector for each text, in their order."""
    client = _client("bedrock-runtime")
    body = {"dimensions": dimensions, "normalize": normalize}

    def embed(text: str) -> list[float]:
        answer = client.invoke_model(modelId=model, body=json.dumps({"inputText": text, **body}))
        vector: list[float] = json.loads(answer["body"].read())["embedding"]
        return vector

    vectors: list[list[float]] = with_credentials(lambda: [embed(text) for text in texts])
    return vectors


def bedrock_converse(
    messages: Annotated[list[Message], Field(min_length=1, max_length=256)],
    model: str,
    system: str = "",
    max_tokens: Annotated[int, Field(ge=1, le=65536)] = 1024,
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0,
) -> Converse:
    """Ask a chat model of Amazon Bedrock, by the Converse API."""
    asked: dict[str, Any] = {
        "modelId": model,
        "messages": [{"role": m.role, "content": [{"text": m.text}]} for m in messages],
        "inferenceConfig": {"maxTokens": max_tokens, "temperature": temperature},
    }
    if system:
        asked["system"] = [{"text": system}]
    answer = with_credentials(lambda: _client("bedrock-runtime").converse(**asked))
    parts = answer["output"]["message"]["content"]
    return Converse(
        text="".join(part.get("text", "") for part in parts),
        stop_reason=answer["stopReason"],
        input_tokens=answer["usage"]["inputTokens"],
        output_tokens=answer["usage"]["outputTokens"],
    )


def sagemaker_invoke(endpoint: str, payload: Any, target_variant: str | None = None) -> Any:
    """Invoke a model on a SageMaker endpoint with a JSON payload; the answer is JSON too."""
    asked = {"EndpointName": endpoint, "ContentType": "application/json", "Body": json.dumps(payload)}
    if target_variant:
        asked["TargetVariant"] = target_variant
    answer = with_credentials(lambda: _client("sagemaker-runtime").invoke_endpoint(**asked))
    return json.loads(answer["Body"].read())


def with_credentials(work: Any) -> Any:
    """The result of `work`; what AWS says of credentials is told as NotReady, for nothing was executed then."""
    try:
        found = work()
    except (NoCredentialsError, PartialCredentialsError, TokenRetrievalError) as exc:
        raise NotReady("CredentialsMissing", MISSING) from exc
    except NoRegionError as exc:
        raise NotReady(
            "RegionMissing", "set AWS_REGION, for instance by spec.backends[].deployment.podTemplate"
        ) from exc
    except ClientError as exc:
        code = exc.response.get("Error", {}).get("Code", "")
        if code in DENIED:
            raise NotReady("CredentialsDenied", f"AWS refused the credentials: {code}") from exc
        raise RuntimeError(f"AWS answered {code}") from exc  # its message may repeat what was sent
    except BotoCoreError as exc:
        raise RuntimeError(f"AWS could not be used: {type(exc).__name__}") from exc
    if found is None:
        raise NotReady("CredentialsMissing", MISSING)
    return found


@functools.cache
def _session() -> boto3.Session:
    return boto3.Session(region_name=os.environ.get("AWS_REGION"))  # by itself it reads AWS_DEFAULT_REGION only


@functools.cache
def _client(service: str) -> Any:
    """One client for each service: they are safe to share between threads, and keep their connections."""
    return with_credentials(lambda: _session().client(service, config=CONFIG))
