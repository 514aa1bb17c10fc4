"""The program, which needs its neighbour."""

import dspy
from parts.signatures import Sort


class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict(Sort)

    def forward(self, ticket):
        return self.sort(ticket=ticket)
