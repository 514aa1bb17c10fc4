"""Why a program cannot be served."""

from __future__ import annotations

from despina.wire import Failure, FailureReason


class NotServable(Exception):
    """A manifest cannot be served, or a command's options make no sense; the text says what to do."""


class ProgramError(Exception):
    """A program that cannot be served, with the reason that its owner will see."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason=reason, message=message[:1024])
