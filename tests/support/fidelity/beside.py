"""What it asks for."""

import dspy


class Sort(dspy.Signature):
    """Sort a ticket."""

    ticket: str = dspy.InputField()
    category: str = dspy.OutputField()
