"""Stores documents with their embeddings: a program without a language model, served like any other."""

import dspy
from pydantic import BaseModel

from despina_runtime import execute_tool


class Document(BaseModel):
    id: str
    text: str


class Store(dspy.Signature):
    """Store documents, so that questions about them can be answered."""

    documents: list[Document] = dspy.InputField()
    stored: int = dspy.OutputField()


class Ingest(dspy.Module):
    signature = Store

    async def aforward(self, documents: list[Document]):
        vectors = await execute_tool("embed", texts=[d.text for d in documents], dimensions=512)
        rows = [d.model_dump() | {"embedding": v} for d, v in zip(documents, vectors, strict=True)]
        return dspy.Prediction(stored=await execute_tool("store", collection="handbook", documents=rows))
