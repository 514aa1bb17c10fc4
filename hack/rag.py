"""The RAG example on a cluster: `make demo-rag`, and what the end-to-end test shares with it.

Amazon Bedrock is played by a fake of ours and STS by moto, both behind boto3's real clients; PostgreSQL with pgvector
is real. They run beside the cluster, as MLflow and the stand-in LM do, and pods reach them by name.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

import demo
from demo import STATE
from services import Processes, bedrock_command, moto_command, postgres_command
from stage import Stage, apply, exposed, mlflow_uri
from tools import ROOT, Failed, run, say

EXAMPLE = ROOT / "examples" / "rag"
PORTS = {"bedrock": 8001, "moto": 8002, "postgres": 5432}
POOL = {"eks.amazonaws.com/nodegroup": "despina"}
ROLE = "arn:aws:iam::123456789012:role/rag"
TOP = 5
Kubectl = Callable[..., str]


def start_backends(stage: Stage, processes: Processes, data: Path) -> None:
    """Start what the example's tools talk to."""
    processes.start("bedrock", bedrock_command(stage.host_ip, PORTS["bedrock"]))
    processes.start("moto", moto_command(stage.host_ip, PORTS["moto"]))
    processes.start("postgres", postgres_command(data, stage.host_ip, PORTS["postgres"]))


def expose_backends(stage: Stage, namespace: str) -> None:
    """Names for them, the variables of a role on AWS, the database's Secret, and a node of the AWS pool."""
    meta = {"namespace": namespace}
    url = f"postgresql://despina@postgres:{PORTS['postgres']}/postgres"
    aws = {
        "AWS_REGION": "eu-central-1",
        "AWS_ROLE_ARN": ROLE,
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/aws/token",
        "AWS_ENDPOINT_URL_STS": f"http://moto:{PORTS['moto']}",
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": f"http://bedrock:{PORTS['bedrock']}",
    }
    items = [d for name, port in PORTS.items() for d in exposed(name, port, stage.host_ip, namespace)]
    items += [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**meta, "name": "rag-aws"}, "data": aws},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {**meta, "name": "rag-database"},
            "stringData": {"url": url},
        },
    ]
    apply(stage, {"apiVersion": "v1", "kind": "List", "items": items})
    stage.kubectl("label", "node", "--all", *(f"{k}={v}" for k, v in POOL.items()), "--overwrite")


def release(uri: str, prefix: Sequence[str] = (), *which: str) -> None:
    """Log both programs, or only the one that is named, and move their aliases."""
    env = {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DESPINA_TOOL_PACKAGES": "despina_runtime.tools.aws,despina_runtime.tools.vectors",
    }
    run([*prefix, sys.executable, str(EXAMPLE / "release.py"), *which], env=env, cwd=EXAMPLE, quiet=True)


def manifests(namespace: str) -> list[dict]:
    """The example's folder, for a namespace; MLflow and the stand-in LM stay in `default`."""
    found = [d for p in sorted((EXAMPLE / "manifests").glob("*.yaml")) for d in yaml.safe_load_all(p.read_text())]
    for document in found:
        document["metadata"]["namespace"] = namespace
    return found


def rows(name: str) -> list[dict]:
    """A file of the example: documents or questions."""
    return [json.loads(line) for line in (EXAMPLE / f"{name}.jsonl").read_text().splitlines()]


def post(url: str, document: object, token: str = "") -> dict:
    """One JSON request from where Services can be reached; an error is an exception."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(document).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def cluster_ip(kubectl: Kubectl, name: str) -> str:
    return f"http://{kubectl('get', 'service', name, '-o', 'jsonpath={.spec.clusterIP}')}"


def ingest(kubectl: Kubectl) -> int:
    """Store all documents through the program `rag-ingest`; how many it stored."""
    documents, stored = rows("documents"), 0
    for start in range(0, len(documents), 20):
        answer = post(f"{cluster_ip(kubectl, 'rag-ingest')}/execute", {"documents": documents[start : start + 20]})
        stored += answer["stored"]
    return stored


def recall(kubectl: Kubectl, namespace: str) -> float:
    """Of the questions, the part whose document is among the five that the tools find."""
    tokens = {name: _token(kubectl, name, namespace) for name in ("bedrock-embed", "pgvector-search")}
    embed, search = (f"{cluster_ip(kubectl, name)}/tools/{name}/execute" for name in tokens)
    questions = rows("questions")
    asked = {"texts": [q["question"] for q in questions], "dimensions": 512}
    vectors = post(embed, asked, tokens["bedrock-embed"])["result"]
    hits = 0
    for question, vector in zip(questions, vectors, strict=True):
        wanted = {"collection": "handbook", "embedding": vector, "top_k": TOP}
        found = post(search, wanted, tokens["pgvector-search"])["result"]
        hits += question["document"] in [match["id"] for match in found]
    return hits / len(questions)


def _token(kubectl: Kubectl, tool: str, namespace: str) -> str:
    encoded = json.loads(kubectl("get", "secret", f"{tool}-callers", "-o", "json"))["data"][namespace]
    return base64.b64decode(encoded).decode()


def is_typed(answer: object) -> bool:
    """Whether an answer is what the program's signature says."""
    if not isinstance(answer, dict) or set(answer) != {"answer", "confidence", "sources"}:
        return False
    text, confidence, sources = answer["answer"], answer["confidence"], answer["sources"]
    is_number = isinstance(confidence, float | int) and 0 <= confidence <= 1
    return isinstance(text, str) and is_number and all(isinstance(s, str) for s in sources)


def ask_all(kubectl: Kubectl) -> dict[str, float]:
    """All questions to the program: how many answers are typed, right, and from the right document."""
    url, questions = f"{cluster_ip(kubectl, 'rag')}/execute", rows("questions")
    answers = [(q, post(url, {"question": q["question"]})) for q in questions]
    return {
        "answers": len(answers),
        "typed": sum(is_typed(a) for _, a in answers),
        "right": sum(q["answer"].lower() in a["answer"].lower() for q, a in answers),
        "from_the_right_document": sum(q["document"] in a["sources"] for q, a in answers),
    }


class RagDemo(demo.Demo):
    """The example on a cluster of its own, which is left running."""

    name = "rag"
    figures_name = "demo-rag.json"

    def run(self) -> None:
        """All of it."""
        self._set_the_stage()
        start_backends(self.stage, self.processes, STATE / "postgres")
        expose_backends(self.stage, demo.NAMESPACE)
        self.step("Logging the programs rag and rag-ingest")
        release(mlflow_uri(self.stage), self.stage.prefix)
        self.step("kubectl apply -f examples/rag/manifests/")
        for document in manifests(demo.NAMESPACE):
            apply(self.stage, document)
        kinds = "dspyprogram/rag", "dspyprogram/rag-ingest"
        self.stage.kubectl("wait", *kinds, "--for=condition=Ready", "--timeout=240s")
        say(self.stage.kubectl("get", "dspy,dspyt"))
        self._measure()
        self._leave_open()

    def _measure(self) -> None:
        """In a process where Services can be reached."""
        command = [*self.stage.prefix, sys.executable, __file__, "measure", *self.stage.wrapper()]
        found = json.loads(run(command, capture=True).splitlines()[-1])
        self.figures |= found
        answers = found["answers"]
        self.step(f"Stored {found['stored']} documents through bedrock-embed and pgvector-insert")
        self.step(f"recall@{TOP} of {answers} questions: {found['recall']:.1%} (a fake of Bedrock: lexical embeddings)")
        self.step(
            f"{found['typed']} of {answers} answers are typed, {found['right']} hold the expected words (stand-in LM)"
        )
        if found["typed"] != answers:
            raise Failed(f"an answer was not what the signature says: {found}")


def measure(wrapper: list[str]) -> dict[str, float]:
    """Store the documents, and ask."""

    def kubectl(*args: str) -> str:
        return subprocess.run([*wrapper, *args], capture_output=True, text=True, check=True).stdout

    stored = ingest(kubectl)
    return {"stored": stored, "recall": recall(kubectl, demo.NAMESPACE), **ask_all(kubectl)}


def main(args: list[str]) -> int:
    """Run the demo, or its part that runs within the cluster's network."""
    if args[:1] == ["measure"]:
        say(json.dumps(measure(args[1:])))
        return 0
    return demo.main(args, RagDemo)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
