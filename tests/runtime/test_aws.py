"""The tools on AWS and on PostgreSQL: boto3's real clients against moto and a fake of Bedrock, psycopg against a real
database with pgvector. All are asked through the tool host."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import httpx
import psycopg
import pytest

from services import Processes, bedrock_command, free_port, moto_command, postgres_command
from tests.support.hosts import hosts
from tests.support.world import eventually

AWS, VECTORS = "despina_runtime.tools.aws", "despina_runtime.tools.vectors"
ROLE = "arn:aws:iam::123456789012:role/embedder"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aws")
    processes = Processes(folder / "logs")
    bedrock, moto, database = free_port(), free_port(), free_port()
    processes.start("bedrock", bedrock_command("127.0.0.1", bedrock))
    processes.start("moto", moto_command("127.0.0.1", moto))
    processes.start("postgres", postgres_command(folder / "postgres", "127.0.0.1", database))
    processes.wait_for_http("bedrock", f"http://127.0.0.1:{bedrock}/admin")
    processes.wait_for_http("moto", f"http://127.0.0.1:{moto}/moto-api/data.json")
    yield (
        f"http://127.0.0.1:{bedrock}",
        f"http://127.0.0.1:{moto}",
        f"postgresql://despina@127.0.0.1:{database}/postgres",
    )
    processes.stop_all()


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts hosts that have no credentials of this machine's."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with hosts(tmp_path) as starting:
        yield starting


def web_identity(tmp_path, servers) -> dict[str, str]:
    """What EKS gives to the pods of a service account that has a role."""
    token = tmp_path / "token"
    token.write_text("a.service.account")
    return {
        "AWS_REGION": "eu-central-1",
        "AWS_ROLE_ARN": ROLE,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        "AWS_ENDPOINT_URL_STS": servers[1],
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": servers[1],
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": servers[0],
    }


def result(answer: httpx.Response):
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


def problem_of(host, tool: str) -> dict | None:
    return httpx.get(f"{host.url}/tools").json()["tools"][tool]["problem"]


def test_a_role_by_web_identity_embeds_batches_of_texts(start, tmp_path, servers):
    host = start(packages=(AWS,), env=web_identity(tmp_path, servers))
    texts = ["How are refunds paid?", "Refunds are paid to the card", "The museum opens at ten"]
    vectors = result(host.call("bedrock-embed", {"texts": texts, "dimensions": 256}))
    assert [len(v) for v in vectors] == [256] * 3
    assert all(abs(sum(x * x for x in v) - 1) < 1e-6 for v in vectors)
    near, far = (sum(a * b for a, b in zip(vectors[0], v, strict=True)) for v in vectors[1:])
    assert near > far + 0.2
    long = result(host.call("bedrock-embed", {"texts": texts[:1], "normalize": False}))
    assert len(long[0]) == 1024
    (key,) = httpx.get(f"{servers[0]}/admin").json()["keys"]
    assert key.startswith("ASIA"), "a key of an assumed role"
    assert problem_of(host, "bedrock-embed") is None


def test_the_other_tools_work_under_the_same_role(start, tmp_path, servers):
    host = start(packages=(AWS,), env=web_identity(tmp_path, servers))
    asked = {
        "messages": [{"role": "user", "text": "Respond with `[[ ## answer ## ]]`"}],
        "model": "a.model",
        "system": "Be brief.",
    }
    said = result(host.call("bedrock-converse", asked))
    assert "[[ ## answer ## ]]" in said["text"]
    assert said["stop_reason"] == "end_turn"
    assert said["input_tokens"] > 0
    canned = {"results": [{"Body": '{"score": 0.5}', "ContentType": "application/json"}], "region": "eu-central-1"}
    httpx.post(
        f"{servers[1]}/moto-api/static/sagemaker/endpoint-results", json={"account_id": "123456789012", **canned}
    )
    assert result(host.call("sagemaker-invoke", {"endpoint": "scorer", "payload": {"text": "x"}})) == {"score": 0.5}


def test_dspys_bedrock_lm_works_under_the_same_role(start, tmp_path, servers):
    """Through litellm, in a process of its own as a pod would have it."""
    env = web_identity(tmp_path, servers) | {"AWS_BEDROCK_RUNTIME_ENDPOINT": servers[0]}
    code = (
        "import dspy; lm = dspy.LM('bedrock/anthropic.claude-3-haiku-20240307-v1:0', cache=False)\n"
        "with dspy.context(lm=lm): print('said', dspy.Predict('question -> answer')(question='who?').answer)"
    )
    variables = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | env
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**variables, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "said stand-in" in done.stdout, done.stderr[-1500:]


def test_without_credentials_the_tool_says_so_in_its_report_and_to_its_callers(start, servers):
    env = {"AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": servers[0]}
    host = start(packages=(AWS,), env=env)
    eventually("the report", lambda: problem_of(host, "bedrock-embed"), 20)
    assert problem_of(host, "bedrock-embed")["reason"] == "CredentialsMissing"
    answer = host.call("bedrock-embed", {"texts": ["x"]})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:despina:problem:credentials-missing")
    assert "eks.amazonaws.com/role-arn" in answer.json()["detail"]
    assert answer.headers["despina-executed"] == "no"


def test_aws_refuses_and_its_words_are_not_repeated(start, tmp_path, servers):
    host = start(packages=(AWS,), env=web_identity(tmp_path, servers))
    answer = host.call("bedrock-embed", {"texts": ["my secret"], "model": "unknown"})
    assert answer.status_code == 500
    assert "ValidationException" in answer.json()["detail"]
    assert "secret" not in answer.text


def test_texts_are_stored_and_found_by_their_embeddings(start, servers):
    host = start(packages=(VECTORS,), env={"PGVECTOR_URL": servers[2]})
    documents = [
        {"id": f"d{n}", "text": f"text {n}", "embedding": [n, 1.0, 2.0], "metadata": {"even": n % 2 == 0}}
        for n in range(20)
    ]
    assert result(host.call("pgvector-insert", {"collection": "docs", "documents": documents})) == 20
    assert result(host.call("pgvector-insert", {"collection": "docs", "documents": documents})) == 20
    asked = {"collection": "docs", "embedding": [3.0, 1.0, 2.0], "top_k": 3}
    found = result(host.call("pgvector-search", asked))
    assert found[0] == {"id": "d3", "text": "text 3", "metadata": {"even": False}, "similarity": pytest.approx(1.0)}
    assert [f["similarity"] for f in found] == sorted((f["similarity"] for f in found), reverse=True)
    even = result(host.call("pgvector-search", asked | {"filter": {"even": True}}))
    assert len(even) == 3
    assert all(f["metadata"]["even"] for f in even)
    assert result(host.call("pgvector-search", asked | {"min_similarity": 0.9999})) == found[:1]
    with contextlib.closing(psycopg.connect(servers[2])) as connection:
        (index,) = connection.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'docs_hnsw'").fetchone()
    assert "USING hnsw" in index


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ({"collection": "nowhere", "embedding": [1.0]}, 500, "insert something first"),
        ({"collection": "docs; DROP TABLE docs", "embedding": [1.0]}, 422, "collection"),
        ({"collection": "docs", "embedding": []}, 422, "embedding"),
    ],
)
def test_what_the_database_cannot_do_is_said(start, servers, arguments, status, said):
    host = start(packages=(VECTORS,), env={"PGVECTOR_URL": servers[2]})
    answer = host.call("pgvector-search", arguments)
    assert answer.status_code == status
    assert said in answer.text


def test_a_database_that_is_not_there_is_said_without_its_address(start):
    host = start(packages=(VECTORS,), env={"PGVECTOR_URL": f"postgresql://user:hidden@127.0.0.1:{free_port()}/x"})
    answer = host.call("pgvector-search", {"collection": "docs", "embedding": [1.0]})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:despina:problem:database-unreachable")
    assert "hidden" not in answer.text
    nameless = start(packages=(VECTORS,), env={"PGVECTOR_URL": ""})
    eventually("the report", lambda: problem_of(nameless, "pgvector-search"), 20)
    assert problem_of(nameless, "pgvector-search")["reason"] == "DatabaseMissing"
