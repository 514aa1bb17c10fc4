"""How strong the tests of the decisions are: change a place at random, and see whether a unit test notices.

`make mutants` changes 300 places of decide/, desired/ and status/, one at a time, and runs the unit tests that import
the changed module, with 25 schedules (and made-up documents) of each kind, two mutants at a time. It prints every
mutant that no test noticed, and the share of those that one did. `SEED=… make mutants` changes the same places again,
`MUTANTS=20` fewer.

Each mutant lives in a copy of operator/ that the tests import first, so the tree is never touched. A changed text of a
message counts like any other, and a change that changes nothing (an equivalent mutant) counts as not noticed. Left
out is only what cannot change behaviour: docstrings, annotations, aliases of types and `__all__`. An f-string is one
place, whatever stands in its braces.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from textwrap import shorten

ROOT = Path(__file__).parent.parent
PACKAGES = ("decide", "desired", "status")
AT_A_TIME = 2
EXAMPLES = "25"
MEMORY = 4 << 30
"""A mutant that never stops collecting is ended before the machine is."""

FLIPS = {
    "==": ("!=",), "!=": ("==",), "<": ("<=", ">="), "<=": ("<", ">"), ">": (">=", "<="), ">=": (">", "<"),
    "is": ("is not",), "is not": ("is",), "in": ("not in",), "not in": ("in",), "and": ("or",), "or": ("and",),
    "+": ("-",), "-": ("+",), "*": ("/",), "/": ("*",), "//": ("*",), "%": ("*",), "**": ("*",), "&": ("|",),
}  # fmt: skip
OPERATOR = re.compile(r"\bnot\s+in\b|\bis\s+not\b|\b(?:is|in|and|or)\b|[=!<>]=|\*\*|//|[<>+\-*/%&|]")
QUOTE = re.compile(r"""[a-zA-Z]*("{3}|'{3}|"|')""")


@dataclass(frozen=True)
class Place:
    """A piece of source, and what may stand there instead."""

    start: int
    end: int
    options: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A module's text, in bytes, as `ast` counts them."""

    text: bytes
    tree: ast.Module = field(repr=False)
    starts: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Source:
        raw = text.encode()
        starts = [0]
        for line in raw.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        return cls(raw, ast.parse(raw), tuple(starts))

    def span(self, node: ast.AST) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def segment(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.text[start:end].decode()

    def instead(self, node: ast.AST, *options: str) -> Place:
        return Place(*self.span(node), options)

    def between(self, left: ast.AST, right: ast.AST) -> tuple[int, int, str]:
        """The operator that stands between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        found = OPERATOR.search(self.text[start:end].decode())
        assert found, "two operands have an operator between them"
        return start + found.start(), start + found.end(), " ".join(found[0].split())

    def flipped(self, left: ast.AST, right: ast.AST) -> Iterator[Place]:
        start, end, operator = self.between(left, right)
        if operator in FLIPS:
            yield Place(start, end, FLIPS[operator])


# What can be done to a node, one function for each kind of change.


def comparison(source: Source, node: ast.AST) -> Iterator[Place]:
    if isinstance(node, ast.Compare):
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            yield from source.flipped(left, right)


def boolean_operator(source: Source, node: ast.AST) -> Iterator[Place]:
    if isinstance(node, ast.BoolOp):
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from source.flipped(left, right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield source.instead(node, f"({source.segment(node.operand)})")


def condition(source: Source, node: ast.AST) -> Iterator[Place]:
    """Where a condition is neither a comparison nor a boolean operator, which are places themselves."""
    tests = node.ifs if isinstance(node, ast.comprehension) else [getattr(node, "test", None)]
    for test in tests:
        if test and not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            yield source.instead(test, f"(not {source.segment(test)})")


def constant(source: Source, node: ast.AST) -> Iterator[Place]:
    match node:
        case ast.Constant(value=bool(value)):
            yield source.instead(node, str(not value))
        case ast.Constant(value=int(value) | float(value)):
            yield source.instead(node, repr(value + 1), f"({value - 1!r})")
        case ast.Constant(value=str() | bytes()) | ast.JoinedStr():
            text = source.segment(node)
            if quote := QUOTE.match(text):
                yield source.instead(node, f"{quote[0]}XX{text[quote.end() :]}")


def arithmetic(source: Source, node: ast.AST) -> Iterator[Place]:
    match node:
        case ast.BinOp(op=ast.BitOr()):  # of dicts and sets, which have no other operator to flip to
            yield source.instead(node, source.segment(node.left), source.segment(node.right))
        case ast.BinOp():
            yield from source.flipped(node.left, node.right)
        case ast.AugAssign():
            yield from source.flipped(node.target, node.value)
        case ast.UnaryOp(op=ast.USub()):
            yield source.instead(node, source.segment(node.operand))


def removed_statement(source: Source, node: ast.AST) -> Iterator[Place]:
    """Not of a name's assignment, whose absence every test that comes by would notice."""
    match node:
        case ast.Expr() | ast.Raise() | ast.AugAssign() | ast.Delete() | ast.Continue() | ast.Break():
            yield source.instead(node, "pass")
        case ast.If(orelse=[]):
            yield source.instead(node, "pass")
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield source.instead(node, "pass")


def return_value(source: Source, node: ast.AST) -> Iterator[Place]:
    """A value of the same type as far as the annotation tells, so that not only a type error is noticed."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        kind = ast.unparse(node.returns) if node.returns else ""
        for value in [n.value for n in own(node) if isinstance(n, ast.Return) and n.value]:
            if other := another(kind, value, source.segment(value)):
                yield source.instead(value, other)


def own(function: ast.AST) -> Iterator[ast.AST]:
    """A function's statements without those of functions within it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from own(child)


def another(kind: str, value: ast.expr, text: str) -> str | None:
    """None for a constant that is a place itself."""
    if "None" in kind:
        return "None"
    same = {"bool": f"not ({text})", "int": f"({text}) + 1", "float": f"({text}) + 1", "str": f'"XX" + ({text})'}
    if kind in same:
        return None if isinstance(value, ast.Constant | ast.JoinedStr) else same[kind]
    empty = {"list": "[]", "tuple": "()", "dict": "{}", "set": "set()", "frozenset": "frozenset()"}
    return empty.get(kind.partition("[")[0], "None")


OPERATORS: tuple[Callable[[Source, ast.AST], Iterator[Place]], ...] = (
    comparison, boolean_operator, condition, constant, arithmetic, removed_statement, return_value,
)  # fmt: skip


def live(node: ast.AST) -> Iterator[ast.AST]:
    """Every node whose change can change what the program does."""
    yield node
    if isinstance(node, ast.JoinedStr):
        return
    types = [getattr(node, name, None) for name in ("annotation", "returns")]
    for child in ast.iter_child_nodes(node):
        if child not in types and not says_nothing(child, isinstance(node, ast.Module)):
            yield from live(child)


def says_nothing(node: ast.AST, is_global: bool) -> bool:
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.Assign(value=ast.Subscript() | ast.BinOp(op=ast.BitOr(), right=ast.Name() | ast.Constant(value=None))):
            return is_global
    return False


def places(source: Source) -> Iterator[Place]:
    for node in live(source.tree):
        for operator in OPERATORS:
            yield from operator(source, node)


@dataclass(frozen=True)
class Mutant:
    path: str
    """Within operator/."""
    source: Source = field(repr=False)
    start: int
    end: int
    text: str

    @property
    def mutated(self) -> bytes:
        return self.source.text[: self.start] + self.text.encode() + self.source.text[self.end :]

    @property
    def is_another_program(self) -> bool:
        try:
            return ast.dump(ast.parse(self.mutated)) != ast.dump(self.source.tree)
        except SyntaxError:
            return False

    def __str__(self) -> str:
        """The lines that it touches, before and after."""
        whole = self.source.text
        first, last = whole.rfind(b"\n", 0, self.start) + 1, whole.find(b"\n", self.end)
        after = whole[first : self.start] + self.text.encode() + whole[self.end : last]
        line = whole.count(b"\n", 0, self.start) + 1
        return f"operator/{self.path}:{line}: {shown(whole[first:last])} -> {shown(after)}"


def shown(lines: bytes) -> str:
    return " ".join(lines.decode().split()) if b"\n" not in lines else shorten(lines.decode(), 120, placeholder=" …")


def mutants(sources: dict[str, Source], count: int, seed: int) -> list[Mutant]:
    """As many different places as asked for, each changed in one of its ways; the same ones for the same seed."""
    chance = random.Random(seed)  # noqa: S311 — chance, not a secret
    everywhere = [(path, place) for path, source in sources.items() for place in places(source)]
    chance.shuffle(everywhere)
    drawn = (Mutant(path, sources[path], p.start, p.end, chance.choice(p.options)) for path, p in everywhere)
    return list(islice((mutant for mutant in drawn if mutant.is_another_program), count))


def read_sources() -> dict[str, Source]:
    operator = ROOT / "operator"
    paths = [p for package in PACKAGES for p in sorted((operator / "despina" / package).glob("*.py"))]
    return {str(p.relative_to(operator)): Source.of(p.read_text()) for p in paths}


# Which tests can notice: those that import the changed module, by however many steps.


@cache
def imported(path: Path) -> frozenset[Path]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(module)):
                names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
            case ast.Import():
                names |= {alias.name for alias in node.names}
    files = [folder / f"{name.replace('.', '/')}.py" for name in names for folder in (ROOT, ROOT / "operator")]
    return frozenset(f for f in files if f.exists())


@cache
def reached(path: Path) -> frozenset[Path]:
    seen, todo = set(), [path]
    while todo:
        new = imported(todo.pop()) - seen
        seen |= new
        todo += new
    return frozenset(seen)


@cache
def is_long(test: Path) -> bool:
    return any(word in test.read_text() for word in ("SCHEDULES", "FUZZ_CASES"))


def tests_of(module: str) -> list[str]:
    """What is generated by the hundreds last, and first what imports the module itself: most mutants end there."""
    path = ROOT / "operator" / module
    files = [f for f in (ROOT / "tests" / "unit").glob("test_*.py") if path in reached(f)]
    files.sort(key=lambda f: (is_long(f), path not in imported(f), f.name))
    return [str(f.relative_to(ROOT)) for f in files]


# Running them.


def run_tests(files: list[str]) -> int:
    """In a process of its own: what one mutant meets."""
    import pytest
    from hypothesis import HealthCheck, Phase, settings

    import despina

    assert Path(despina.__path__[0]).parent == Path(os.environ["PYTHONPATH"].partition(":")[0])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # The same examples for every mutant; the first that fails is enough, however large; a slow machine fails nothing.
    settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    plugins = ["-p", "pytest_asyncio.plugin", "-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider"]
    return int(pytest.main(["-x", "-q", *plugins, "--hypothesis-profile=mutants", *files]))


def notices(copy: Path, files: list[str], limit: float, **env: str) -> tuple[bool, str]:
    """Whether the tests fail with what is in the copy of operator/, or do not end."""
    if not files:
        return False, "no test imports it"
    path = f"{copy}:{ROOT / 'runtime_image'}"
    env = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
           "SCHEDULES": EXAMPLES, "FUZZ_CASES": EXAMPLES, **env}  # fmt: skip
    command = [sys.executable, __file__, "tests", *files]
    try:
        ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return True, "did not end"
    return ran.returncode != 0, ran.stdout + ran.stderr


class Copies:
    """Copies of operator/, each used by one mutant at a time."""

    def __init__(self, folder: Path) -> None:
        self._free: SimpleQueue[Path] = SimpleQueue()
        self.folders = [folder / str(number) for number in range(AT_A_TIME)]
        for copy in self.folders:
            shutil.copytree(ROOT / "operator", copy, ignore=shutil.ignore_patterns("__pycache__"))
            self._free.put(copy)
        self.limit = 600.0

    def measure(self, files: list[str]) -> float:
        """How long everything takes without a change: what takes much longer hangs."""
        started = time.monotonic()
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for failed, output in pool.map(lambda copy: notices(copy, files, self.limit), self.folders):
                if failed:
                    raise SystemExit(f"The tests fail without any change:\n{output}")
        took = time.monotonic() - started
        self.limit = 20 + 5 * took
        return took

    def is_noticed(self, mutant: Mutant) -> bool:
        copy = self._free.get()
        try:
            file = copy / mutant.path
            file.write_bytes(mutant.mutated)
            # No bytecode of this file from now on: a change within a second that keeps the size would not be seen.
            Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
            noticed, _ = notices(copy, tests_of(mutant.path), self.limit, PYTHONDONTWRITEBYTECODE="1")
            file.write_bytes(mutant.source.text)
        finally:
            self._free.put(copy)
        return noticed


def try_all(chosen: list[Mutant], copies: Copies) -> int:
    """How many were noticed; the others are printed as they are found."""
    noticed = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        tried = {pool.submit(copies.is_noticed, mutant): mutant for mutant in chosen}
        for number, future in enumerate(as_completed(tried), 1):
            noticed += future.result()
            if not future.result():
                print(tried[future], flush=True)
            if number % 50 == 0:
                print(f"({number} of {len(chosen)} tried)", flush=True)
    return noticed


def main() -> None:
    seed, count = int(os.environ.get("SEED") or time.time()), int(os.environ.get("MUTANTS") or 300)
    sources = read_sources()
    chosen = mutants(sources, count, seed)
    print(f"SEED={seed}: {len(chosen)} of {sum(1 for s in sources.values() for _ in places(s))} places", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="despina-mutants-") as folder:
        copies = Copies(Path(folder))
        took = copies.measure(sorted({f for path in sources for f in tests_of(path)}))
        print(f"Unchanged, the tests take {took:.0f} s; not noticed:", flush=True)
        noticed = try_all(chosen, copies)
    minutes = (time.monotonic() - started) / 60
    print(f"{noticed} of {len(chosen)} in {minutes:.0f} minutes")
    print(f"noticed {100 * noticed / len(chosen):.1f} %")


if __name__ == "__main__":
    if sys.argv[1:2] == ["tests"]:
        raise SystemExit(run_tests(sys.argv[2:]))
    main()
