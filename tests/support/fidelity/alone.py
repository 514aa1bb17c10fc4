"""A program that needs the file beside it."""

import dspy
from beside import Sort


class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict(Sort)

    def forward(self, ticket):
        return self.sort(ticket=ticket)
