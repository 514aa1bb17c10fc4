"""What can go wrong with a call of a tool, for programs to catch."""

from __future__ import annotations

LEFT = "left"
"""What became of a call, or of an attempt at one, that nobody waits for any more."""


class ToolError(Exception):
    """Base of all. The text says which tool and why, and holds no arguments."""

    def __init__(self, tool: str, message: str) -> None:
        super().__init__(f"tool {tool}: {message}")
        self.tool = tool


class ToolUnknown(ToolError):
    """The program's manifest does not list the tool, or there is no such tool."""


class ToolArgumentsInvalid(ToolError, ValueError):
    """The arguments do not fit the contract; nothing was executed."""


class ToolRefused(ToolError):
    """It is NonIdempotent, and a gate that tries the program may not execute such tools; nothing was executed."""


class ToolUnavailable(ToolError):
    """Nobody could execute it, or nobody knows whether it was executed."""


class ToolTimeout(ToolUnavailable):
    """It took too long; it may have been executed."""


class ToolFailed(ToolError):
    """It was executed and raised, or gave something else than its contract says."""


class NotReady(Exception):
    """Raised by a tool, or by its package's `check()`: it cannot work as things are, and nothing was executed.

    `reason` is one word for the tool's status, such as CredentialsMissing.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotATool(Exception):
    """A function cannot be a tool; the text says what to change."""
