"""The orders that one pod shall be given, in their order: pure, with the time given.

An order that can be taken back, or is overtaken by a later one of its kind, has a slot that the later one takes: what
was taken back must not be sent afterwards, not even as another attempt.
"""

from __future__ import annotations

from dataclasses import dataclass

from despina.decide.observed import kind_of
from despina.decide.plan import Tell

ATTEMPTS = {"Retire": 3, "Activate": 3, "Invalidate": 60}
"""For orders that no report shows. The others are given again while they are missing from the reports."""
OF_ONE_SUBJECT = ("Prepare", "Release", "Try")
Slot = tuple[str, str]


@dataclass(eq=False)
class Letter:
    """One order on its way."""

    tell: Tell
    attempts: int
    """Those that are left."""
    due: float


class Outbox:
    """What is still to be sent to one pod."""

    def __init__(self, retry_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        self._letters: dict[Slot, Letter] = {}

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, tell: Tell, now: float) -> None:
        """Last in line; what it takes back, or says again, is out of it."""
        self._letters.pop(slot_of(tell), None)
        self._letters[slot_of(tell)] = Letter(tell, ATTEMPTS.get(tell.order, 1), now)

    def due(self, now: float) -> Letter | None:
        """What to send now."""
        return next((letter for letter in self._letters.values() if letter.due <= now), None)

    def wait(self, now: float) -> float:
        """Seconds until something is due."""
        return max(0.0, min((letter.due for letter in self._letters.values()), default=now) - now)

    def tried(self, letter: Letter, is_done: bool, now: float) -> bool:
        """Note an attempt; whether the letter stays, to be sent once more. An overtaken one does not."""
        slot = slot_of(letter.tell)
        if self._letters.get(slot) is not letter:
            return False
        letter.attempts, letter.due = letter.attempts - 1, now + self._retry_seconds
        if is_done or not letter.attempts:
            del self._letters[slot]
        return slot in self._letters


def slot_of(tell: Tell) -> Slot:
    """What an order shares with those that it makes pointless: its kind, and, where orders of one kind do not concern
    each other, what it is about. Two that empty a part of the caches each are such."""
    is_part = tell.order == "Invalidate" and ":" in tell.subject
    return kind_of(tell.order), tell.subject if is_part or tell.order in OF_ONE_SUBJECT else ""
