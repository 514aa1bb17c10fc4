"""The program that the serving bench runs everywhere: one prediction."""

import dspy


class Answer(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class QuestionAnswering(dspy.Module):
    def __init__(self):
        super().__init__()
        self.generate = dspy.Predict(Answer)

    def forward(self, question: str):
        return self.generate(question=question)

    async def aforward(self, question: str):
        return await self.generate.acall(question=question)
