"""What the API server can answer that is not a success, by what it means for us."""

from __future__ import annotations


class ClusterError(Exception):
    """Base of all; the text says which object and why, and never holds a body or a secret."""


class Unavailable(ClusterError):
    """The API server did not answer, or is not well: try again later."""


class Refused(ClusterError):
    """It will not do this (forbidden, invalid, or somebody else's object): a person must act."""


class Conflict(ClusterError):
    """The object exists, or changed meanwhile: look again."""


class Gone(ClusterError):
    """The object, or its namespace, is not there."""


class UnknownKind(Gone):
    """Nor is anything of its kind: the API server does not know the path."""


def error_for(status: int | None, what: str, message: str) -> ClusterError:
    """The error that an HTTP status stands for."""
    text = f"{what}: {message}"
    if status == 404:
        return Gone(text)
    if status == 409:
        return Conflict(text)
    if status is not None and 400 <= status < 500 and status != 429:
        return Refused(text)
    return Unavailable(text)
