"""The language models that a program calls."""
