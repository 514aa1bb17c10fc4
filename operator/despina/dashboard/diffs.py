"""What is not the same in two versions: what they take and give, and what their prompts are made of (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from despina.cluster.reading import text
from despina.dashboard.quoted import GONE, NEW, Piece, Pieces, compared, quoted
from despina.dashboard.schemas import Schema, told
from despina.dashboard.words import NOTHING, shown
from despina.wire import Prompt, Prompts

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
SIGNS = {ADDED: "+", REMOVED: "\N{MINUS SIGN}", CHANGED: "≠"}
MOST_READ, MOST_CHANGES, MOST_DEMOS = 1000, 100, 5
"""Fields of each side that are compared; changes that are shown; and demonstrations of each module and side."""
LONGEST_DEMO, LONGEST_COMPARED, ROOM = 1000, 8192, 100_000
"""Characters of a demonstration, of any other text, and of all that is shown of two versions."""
EMPTY: Pieces = (Piece(NOTHING),)


class Change(NamedTuple):
    """One thing that is not the same."""

    what: str
    kind: str
    before: Pieces
    after: Pieces

    @property
    def sign(self) -> str:
        """What tells its kind without a colour."""
        return SIGNS[self.kind]


MORE = Change("and more", CHANGED, (Piece("which is not shown"),), (Piece("which is not shown"),))


class Diff(NamedTuple):
    """All that is not the same in two versions."""

    before: str
    after: str
    """The two versions, as in `Active v7`."""
    schema: list[Change] | None
    """None where a pod has not told it."""
    prompts: list[Change] | None
    has_words: bool = True
    """Whether prompts were compared word by word."""


def schema_diff(before: Schema, after: Schema) -> list[Change]:
    """Fields that came, went or are other ones, and the instructions as the author wrote them."""
    instructions = text(before.get("instructions")), text(after.get("instructions"))
    fields = _fields(before, after, "inputs"), _fields(before, after, "outputs")
    return _fitting(chain(_text("instructions", *instructions), *fields))


def _fitting(found: Iterable[Change]) -> list[Change]:
    """As many as there is room for; the last one says that there are more."""
    fitting, room = list[Change](), ROOM
    for change in found:
        if len(fitting) >= MOST_CHANGES or room <= 0:
            return [*fitting, MORE]
        fitting.append(change)
        room -= sum(len(piece.text) for piece in (*change.before, *change.after))
    return fitting


def _fields(before: Schema, after: Schema, which: str) -> Iterator[Change]:
    old, new = (dict(told(one, which, MOST_READ)) for one in (before, after))
    for path in dict.fromkeys((*old, *new)):
        yield from _text(f"{which.removesuffix('s')} {path}", old.get(path), new.get(path))


def _text(what: str, before: str | None, after: str | None) -> Iterator[Change]:
    if before == after:
        return
    if not before or not after:
        kind = REMOVED if before else ADDED
        yield Change(what, kind, _whole(before, GONE), _whole(after, NEW))
    else:
        yield Change(what, CHANGED, *compared(quoted(before, LONGEST_COMPARED), quoted(after, LONGEST_COMPARED)))


def _whole(said: str | None, mark: str) -> Pieces:
    return (Piece(quoted(said, LONGEST_COMPARED), mark),) if said else EMPTY


def prompt_diff(before: Prompts, after: Prompts, has_words: bool) -> list[Change]:
    """Module by module: its LM, its instructions and demonstrations. Without `has_words` it is only told that these are
    other ones, for they may hold what people wrote."""
    old, new = ({one.path: one for one in side.modules} for side in (before, after))
    found = (
        change
        for path in dict.fromkeys((*old, *new))
        for change in _module(path, old.get(path), new.get(path), has_words)
    )
    return _fitting(found)


def _module(path: str, before: Prompt | None, after: Prompt | None, has_words: bool) -> Iterator[Change]:
    name = shown(path, 100) or "(whole program)"
    old, new = before or Prompt(), after or Prompt()
    if before is None or after is None:
        yield from _text(f"{name}: module", "is there" if before else None, "is there" if after else None)
    yield from _text(f"{name}: LM", shown(old.lm, 100), shown(new.lm, 100))
    if has_words:
        yield from _text(f"{name}: instructions", old.instructions, new.instructions)
        yield from _demos(name, old, new)
    else:
        yield from _wordless(f"{name}: instructions", [old.instructions], [new.instructions], "")
        yield from _wordless(f"{name}: demonstrations", old.demos, new.demos, f"{old.demo_count} → {new.demo_count}")


def _wordless(what: str, before: Iterable[str], after: Iterable[str], count: str) -> Iterator[Change]:
    if list(before) != list(after):
        yield Change(what, CHANGED, (Piece(f"other ones {count}".strip()),), (Piece("the right payloads shows them"),))


def _demos(name: str, before: Prompt, after: Prompt) -> Iterator[Change]:
    old, new = dict.fromkeys(before.demos), dict.fromkeys(after.demos)
    gone, came = [one for one in old if one not in new], [one for one in new if one not in old]
    if gone or came or before.demo_count != after.demo_count:
        counts = str(before.demo_count), str(after.demo_count)
        yield Change(f"{name}: demonstrations", CHANGED, *((Piece(count),) for count in counts))
    for kind, demos in ((REMOVED, gone), (ADDED, came)):
        for demo in demos[:MOST_DEMOS]:
            yield _demo(name, kind, quoted(demo, LONGEST_DEMO))
        if len(demos) > MOST_DEMOS:
            yield _demo(name, kind, f"and {len(demos) - MOST_DEMOS} more")


def _demo(name: str, kind: str, said: str) -> Change:
    before, after = (said, None) if kind == REMOVED else (None, said)
    return Change(f"{name}: demonstration", kind, _whole(before, GONE), _whole(after, NEW))
