"""Observe, decide, execute, report: one page per kind, and the queue that calls it."""
