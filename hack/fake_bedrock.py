"""A fake of Amazon Bedrock's runtime, where there is no AWS: it answers boto3's real requests over HTTP.

Titan's embeddings are hashed character n-grams (3 to 5, of words): lexical and deterministic, so that retrieval
means something, and nobody's model. `converse` is answered by the stand-in LM's rules. Each request must be signed
(Signature Version 4) and, if it was made under an assumed role, carry the session's token, as on AWS.

`GET /admin` counts the requests and names the access keys that signed them.
"""

from __future__ import annotations

import argparse
import math
import re
import zlib
from collections import Counter

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from standin_lm import answer

TITAN = "amazon.titan-embed-text-v2:0"
SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([a-z0-9-]+)/bedrock/aws4_request, SignedHeaders=")
TEMPORARY = "ASIA"
COMMON = {
    "a", "an", "the", "of", "to", "in", "on", "at", "for", "and", "or", "is", "are", "was", "be", "do", "does",
    "how", "what", "which", "who", "when", "where", "can", "i", "my",
}  # fmt: skip


def embedding(text: str, dimensions: int, normalize: bool) -> list[float]:
    """Each n-gram adds to one place of the vector, up or down, by its hash."""
    words = [w for w in re.findall(r"\w+", text.lower()) if w not in COMMON]
    grams = Counter(g for w in words for n in (3, 4, 5) for g in ngrams(f"<{w}>", n))
    vector = [0.0] * dimensions
    for gram, count in grams.items():
        hashed = zlib.crc32(gram.encode())
        vector[hashed % dimensions] += (1 if hashed & 0x80000000 else -1) * (1 + math.log(count))
    length = math.sqrt(sum(x * x for x in vector)) or 1.0
    return [x / length for x in vector] if normalize else vector


def ngrams(word: str, size: int) -> list[str]:
    return [word[i : i + size] for i in range(max(1, len(word) - size + 1))]


class Bedrock:
    """The two operations, and what was asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.keys: set[str] = set()

    def refusal(self, request: Request) -> Response | None:
        """As AWS answers a request that nobody signed, or whose session is unknown."""
        found = SIGNED.match(request.headers.get("authorization", ""))
        if not found:
            return _error(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        if found[1].startswith(TEMPORARY) and "x-amz-security-token" not in request.headers:
            return _error(403, "UnrecognizedClientException", "The security token is missing")
        self.calls += 1
        self.keys.add(found[1])
        return None

    async def invoke(self, request: Request) -> Response:
        """InvokeModel of Titan Text Embeddings V2."""
        if refused := self.refusal(request):
            return refused
        if request.path_params["model"] != TITAN:
            return _error(400, "ValidationException", "The provided model identifier is invalid.")
        asked = await request.json()
        text, dimensions = asked["inputText"], asked.get("dimensions", 1024)
        if dimensions not in (256, 512, 1024) or not text:
            return _error(400, "ValidationException", "Malformed input request")
        vector = embedding(text, dimensions, asked.get("normalize", True))
        return JSONResponse({"embedding": vector, "inputTextTokenCount": max(1, len(text) // 4)})

    async def converse(self, request: Request) -> Response:
        """Converse, by the stand-in's rules."""
        if refused := self.refusal(request):
            return refused
        asked = await request.json()
        turns = [{"role": "system", "content": "\n".join(p["text"] for p in asked.get("system", []))}]
        for m in asked["messages"]:
            turns.append({"role": m["role"], "content": "\n".join(p.get("text", "") for p in m["content"])})
        text = answer(turns)
        inputs, outputs = sum(len(t["content"]) for t in turns) // 4, len(text) // 4
        return JSONResponse(
            {
                "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
                "stopReason": "end_turn",
                "usage": {"inputTokens": inputs, "outputTokens": outputs, "totalTokens": inputs + outputs},
                "metrics": {"latencyMs": 1},
            }
        )

    async def admin(self, _: Request) -> Response:
        return JSONResponse({"calls": self.calls, "keys": sorted(self.keys)})


def _error(status: int, kind: str, message: str) -> Response:
    return JSONResponse({"message": message}, status, {"x-amzn-ErrorType": kind})


def build_app() -> Starlette:
    """The server's application."""
    state = Bedrock()
    return Starlette(
        routes=[
            Route("/model/{model:path}/invoke", state.invoke, methods=["POST"]),
            Route("/model/{model:path}/converse", state.converse, methods=["POST"]),
            Route("/admin", state.admin),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    args = parser.parse_args()
    uvicorn.run(build_app(), host=args.host, port=args.port, log_level="warning")
