"""A DSPy program that says which team a support ticket belongs to."""

from typing import Literal

import dspy

Category = Literal["account", "billing", "bug", "feature", "shipping"]


class Triage(dspy.Signature):
    """Decide which team a support ticket belongs to."""

    ticket: str = dspy.InputField(desc="what the customer wrote")
    category: Category = dspy.OutputField(desc="the team that shall handle it")


class TicketTriage(dspy.Module):
    def __init__(self):
        super().__init__()
        self.classify = dspy.Predict(Triage)

    def forward(self, ticket: str):
        return self.classify(ticket=ticket)

    async def aforward(self, ticket: str):
        return await self.classify.acall(ticket=ticket)
