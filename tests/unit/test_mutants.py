"""What `make mutants` puts in the place of what: each kind of change on a small source."""

from __future__ import annotations

import ast
import random

import pytest

import mutants
from mutants import Source

CHANGES: dict[str, tuple[str, set[str]]] = {
    "a comparison, at its bound and against itself": ("y = a < b", {"y = a <= b", "y = a >= b"}),
    "each comparison of a chain": (
        "y = a == b is not c",
        {"y = a != b is not c", "y = a == b is c"},
    ),
    "a comparison of two words": ("y = a not in (b)", {"y = a in (b)"}),
    "each operator of a row of ands": ("y = a and b and c", {"y = a or b and c", "y = a and b or c"}),
    "a negation": ("y = not a", {"y = (a)"}),
    "a condition, and the statement under it": ("if a:\n    b", {"if (not a):\n    b", "pass", "if a:\n    pass"}),
    "a condition within an expression": ("y = b if a else c", {"y = b if (not a) else c"}),
    "a condition of a comprehension": ("y = [b for b in c if b]", {"y = [b for b in c if (not b)]"}),
    "a truth": ("y = True", {"y = False"}),
    "a number, up and down": ("y = 1.5", {"y = 2.5", "y = (0.5)"}),
    "a string": ("y = 'a'", {"y = 'XXa'"}),
    "an empty string": ('y = ""', {'y = "XX"'}),
    "an f-string, as one": ('y = f"{a or 1} ü"', {'y = f"XX{a or 1} ü"'}),
    "arithmetic": ("y = a // b", {"y = a * b"}),
    "arithmetic after letters of two bytes": ("y = ü - b", {"y = ü + b"}),
    "two dicts in one": ("y = f(a | b)", {"y = f(a)", "y = f(b)"}),
    "a sign": ("y = -a", {"y = a"}),
    "a sum in place": ("y += a", {"y -= a", "pass"}),
    "a call for its effect": ("f(a)", {"pass"}),
    "a value handed on": ("yield a", {"pass"}),
    "an error": ("raise a", {"pass"}),
    "an entry set": ("a[b] = c", {"pass"}),
    "a branch that is one of several": (
        "if a:\n    pass\nelif b:\n    pass",
        {"if (not a):\n    pass\nelif b:\n    pass", "if a:\n    pass\nelif (not b):\n    pass", "if a:\n    pass\npass"},
    ),
    "a default": ("def f(a=0): pass", {"def f(a=1): pass", "def f(a=(-1)): pass"}),
    "what a function returns": ("def f():\n    return a", {"def f():\n    return None"}),
    "a truth that is returned": ("def f() -> bool:\n    return a", {"def f() -> bool:\n    return not (a)"}),
    "a constant that is returned, once": ("def f() -> bool:\n    return True", {"def f() -> bool:\n    return False"}),
    "a value that may be missing": ("def f() -> int | None:\n    return a", {"def f() -> int | None:\n    return None"}),
    "a tuple that is returned": ("def f() -> tuple[int, ...]:\n    return a", {"def f() -> tuple[int, ...]:\n    return ()"}),
    "nothing of a docstring": ('"""words"""', set()),
    "nothing of an annotation": ("def f(a: 'A' = b) -> Literal['x']: pass", set()),
    "nothing of an alias of types": ("Kind = Literal['a', 'b']\nAny = A | B", set()),
    "nothing of what is exported": ("__all__ = ['f']", set()),
    "nothing of what only a checker imports": ("if TYPE_CHECKING:\n    import a", set()),
    "nothing of a name's assignment but its value": ("a = b", set()),
}  # fmt: skip


def changed(text: str) -> set[str]:
    source = Source.of(text)
    return {
        text.encode()[: place.start].decode() + option + text.encode()[place.end :].decode()
        for place in mutants.places(source)
        for option in place.options
    }


@pytest.mark.parametrize("sentence", CHANGES)
def test_what_is_changed_is(sentence):
    text, wanted = CHANGES[sentence]
    assert changed(text) == wanted
    for mutated in wanted:
        assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(text))


SOURCES = {"a.py": Source.of("\n".join(f"x{n} = {n} < y" for n in range(40))), "b.py": Source.of("z = 'a' + b")}


def test_the_same_seed_draws_the_same_places_and_another_seed_others():
    drawn = [str(m) for m in mutants.mutants(SOURCES, 10, 7)]
    assert len(drawn) == len(set(drawn)) == 10
    random.random()
    assert [str(m) for m in mutants.mutants(SOURCES, 10, 7)] == drawn
    assert [str(m) for m in mutants.mutants(SOURCES, 10, 8)] != drawn


def test_no_place_is_drawn_twice_and_what_changes_nothing_is_not_drawn():
    everywhere = mutants.mutants(SOURCES, 1000, 1)
    assert len({(m.path, m.start, m.end) for m in everywhere}) == len(everywhere) == 82
    assert mutants.mutants({"c.py": Source.of("f = lambda: (yield)")}, 10, 1) == []
    assert mutants.mutants({"d.py": Source.of("def f() -> A:\n    return None")}, 10, 1) == []


def test_a_mutant_is_told_in_one_line_with_its_place():
    source = Source.of("def f(a):\n    if a:\n        return 1\n    return 2\n")
    told = {str(m) for m in mutants.mutants({"despina/x.py": source}, 100, 3)}
    assert "operator/despina/x.py:2: if a: return 1 -> pass" in told
    assert "operator/despina/x.py:2: if a: -> if (not a):" in told
    assert "operator/despina/x.py:4: return 2 -> return None" in told


def test_the_tests_of_a_module_are_those_that_reach_it_and_the_schedules_come_last():
    files = mutants.tests_of("despina/decide/schema.py")
    assert files[0] == "tests/unit/test_schema_compatibility.py"
    are_long = [mutants.is_long(mutants.ROOT / file) for file in files]
    assert are_long == sorted(are_long)
    assert "tests/unit/test_rollout_schedules.py" in files[are_long.index(True) :]
    assert "tests/unit/test_cache.py" not in files


def test_every_package_of_decisions_has_its_places():
    folders = {path.split("/")[1] for path in mutants.read_sources()}
    assert folders == {"decide", "desired", "status"}
