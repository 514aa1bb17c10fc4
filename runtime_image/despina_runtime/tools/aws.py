"""The tools on AWS by the name that manifests know; `toolhost/aws.py` is what they are."""

from __future__ import annotations

from despina_runtime.toolhost.aws import bedrock_converse, bedrock_embed, check, sagemaker_invoke

__all__ = ["bedrock_converse", "bedrock_embed", "check", "sagemaker_invoke"]
