"""Distinct tickets by the seed, with the team that each is for: as many as a test wants."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

CATEGORIES = ("account", "billing", "bug", "feature", "shipping")
SAID = {
    "account": ["I cannot sign in {since}", "please reset the password of {what}", "I want to change the email of {what}",
                "two-factor login fails for {what}", "delete my profile {since}", "who owns the account of {what}"],
    "billing": ["I was charged twice for {what}", "the invoice for {what} is wrong", "refund my payment for {what}",
                "my card was declined {since}", "why does {what} cost more {since}", "cancel the subscription of {what}"],
    "bug": ["{what} crashes {since}", "an error appears when I open {what}", "{what} freezes {since}",
            "the page of {what} stays blank", "saving {what} fails with code 500", "{what} shows the wrong numbers {since}"],
    "feature": ["please add dark mode to {what}", "could {what} export to a spreadsheet", "I wish {what} had shortcuts",
                "support for calendars in {what} would be great", "let me sort {what} by date", "an API for {what}, please"],
    "shipping": ["my parcel with {what} has not arrived", "the courier left {what} at the wrong door",
                 "where is the package with {what}", "delivery of {what} is late {since}", "{what} arrived broken",
                 "change the delivery address of {what}"],
}  # fmt: skip
WHAT = ["the report", "my team", "the tablet", "the headset", "our workspace", "the dashboard", "the premium plan",
        "the keyboard", "the mobile app", "my order", "the annual plan", "the camera"]  # fmt: skip
SINCE = ["since Monday", "again", "after the update", "for two days", "on my phone", "this morning", "without a reason"]


def tickets(count: int, seed: int) -> list[tuple[str, str]]:
    """Tickets and their categories; those of another seed are others."""
    choose = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        category = CATEGORIES[len(found) % len(CATEGORIES)]
        text = choose.choice(SAID[category]).format(what=choose.choice(WHAT), since=choose.choice(SINCE))
        found[f"{text} #{seed}{choose.randint(0, 999)}"] = category
    return list(found.items())


def inverted(category: str) -> str:
    """What somebody says who wants the program to be wrong: the next category, always."""
    return CATEGORIES[(CATEGORIES.index(category) + 1) % len(CATEGORIES)]


def write_labels(path: Path, rows: Sequence[tuple[str, str]], source: str = "desk") -> Path:
    """Labelled predictions of a program that answers `account` to everything, by a trusted source."""
    documents = [
        {
            "prediction_id": f"{source}-{number}", "inputs": {"ticket": text}, "outputs": {"category": "account"},
            "label": "success" if category == "account" else "failure", "expected": {"category": category},
            "source": source, "trusted": True, "at": float(number),
        }
        for number, (text, category) in enumerate(rows)
    ]  # fmt: skip
    return write_lines(path, documents)


def write_lines(path: Path, documents: Sequence[dict]) -> Path:
    """JSON Lines."""
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path
