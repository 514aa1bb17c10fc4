"""Distinct tickets by the seed, with the team that each is for: as many as a test wants."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

CATEGORIES = ("account", "billing", "bug", "feature", "shipping")
SAID = {
    "account": ["I cannot sign in to {what} {since}", "please reset my password for {what}, I forgot it {since}",
                "I want to change the email address of my login for {what}", "two-factor login fails for {what} {since}",
                "delete my profile in {what} and my personal data", "who owns the account of {what} {since}?",
                "make my colleague an administrator of {what}", "my user is locked out of {what} {since}"],
    "billing": ["I was charged twice for {what} {since}", "the invoice for {what} is wrong {since}",
                "refund my payment for {what}, please", "my card was declined for {what} {since}",
                "why does {what} cost more {since}?", "cancel the subscription of {what}",
                "which VAT number is on the bill for {what}?", "the discount on {what} was not taken off {since}"],
    "bug": ["{what} crashes {since}", "an error appears when I open {what} {since}", "{what} freezes {since}",
            "the page of {what} stays blank {since}", "saving {what} fails with code 500 {since}",
            "{what} shows the wrong numbers {since}", "the search in {what} finds nothing {since}",
            "{what} throws an exception when I paste text {since}"],
    "feature": ["please add a dark mode to {what}", "could {what} export to a spreadsheet some day?",
                "I wish {what} had keyboard shortcuts", "support for calendars in {what} would be great",
                "let me sort {what} by date and by name, please", "we would love an API for {what}",
                "it would be useful to schedule {what} every week", "would you consider a French version of {what}?"],
    "shipping": ["my parcel with {what} has not arrived {since}", "the courier left {what} at the wrong door {since}",
                 "where is the package with {what}? Tracking says nothing {since}", "delivery of {what} is late {since}",
                 "the box with {what} arrived damaged {since}", "change the delivery address of the parcel with {what}",
                 "{what} is stuck in customs {since}", "I got the wrong item in place of {what} {since}"],
}  # fmt: skip
OPENED = ["", "Hello, ", "Hi team, ", "Good morning, ", "Dear support, ", "Urgent: ", "Sorry to bother you, ", "Hey, "]
WHAT = ["the report", "my team", "the tablet", "the headset", "our workspace", "the dashboard", "the premium plan",
        "the keyboard", "the mobile app", "my order", "the annual plan", "the camera", "the monitor", "the shared folder",
        "the calendar", "the standing desk", "the family plan", "our project", "the printer", "the web shop", "the charger",
        "the newsletter", "the editor", "the docking station"]  # fmt: skip
SINCE = ["since Monday", "again", "after the update", "for two days", "on my phone", "this morning", "without a reason",
         "since we moved", "as it did last year", "every time", "on the new laptop", "today"]  # fmt: skip


def tickets(count: int, seed: int) -> list[tuple[str, str]]:
    """Tickets and their categories; those of another seed are others."""
    choose = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        category = CATEGORIES[len(found) % len(CATEGORIES)]
        said = choose.choice(SAID[category]).format(what=choose.choice(WHAT), since=choose.choice(SINCE))
        found[f"{choose.choice(OPENED)}{said} (case {seed}{choose.randint(0, 999):03})"] = category
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
