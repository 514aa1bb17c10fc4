"""The Despina operator: turns DSPyProgram objects into running services."""

__version__ = "0.1.0"
