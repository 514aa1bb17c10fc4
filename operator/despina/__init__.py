"""The Despina operator: turns DSPyProgram objects into running services."""
