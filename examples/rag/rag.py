"""Answers questions from documents, with their sources: retrieval by tools, wherever they run."""

import dspy

from despina_runtime import execute_tool


class Answer(dspy.Signature):
    """Answer the question from the passages. Name the ids of the passages that you used."""

    question: str = dspy.InputField()
    passages: list[str] = dspy.InputField(desc="each begins with its id")
    answer: str = dspy.OutputField()
    confidence: float = dspy.OutputField(ge=0, le=1, desc="from 0 to 1")
    sources: list[str] = dspy.OutputField(desc="ids of passages")


class Rag(dspy.Module):
    signature = Answer.delete("passages")

    def __init__(self):
        super().__init__()
        self.respond = dspy.Predict(Answer)

    async def aforward(self, question: str):
        [vector] = await execute_tool("embed", texts=[question], dimensions=512)
        found = await execute_tool("search", collection="handbook", embedding=vector, top_k=5)
        passages = [f"{match['id']}: {match['text']}" for match in found]
        return await self.respond.acall(question=question, passages=passages)
