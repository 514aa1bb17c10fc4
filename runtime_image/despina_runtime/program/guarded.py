"""Code that logs a program is imported by whoever loads that program: unguarded, each load would be a release."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HOW = "put that under `if __name__ == '__main__':`"
_loads = [0]


@contextmanager
def loading() -> Iterator[None]:
    """While a program's code is imported and its program made."""
    _loads[0] += 1
    try:
        yield
    finally:
        _loads[0] -= 1


def check_not_loading() -> None:
    """Raise ValueError where a program that is loaded logs one."""
    if _loads[0]:
        raise ValueError(f"the program's code logs a program whenever it is loaded: {HOW}, and log it anew")


def check_guarded(file: Path) -> None:
    """Raise ValueError for a module that calls `log_program` as it is imported."""
    for node in _executed(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Call) and _logs(node):
            raise ValueError(f"{file.name} calls log_program in line {node.lineno} whenever a pod loads it: {HOW}")


def _executed(module: ast.Module) -> Iterator[ast.AST]:
    """What an import executes, in the file's order. It is no recursion, for code may nest as deep as it likes."""
    waiting: list[ast.AST] = [module]
    while waiting:
        yield (node := waiting.pop())
        waiting += reversed(_parts(node))


def _parts(node: ast.AST) -> list[ast.AST]:
    """Those that are executed with a node. A function's body is not, where it is defined."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [*node.decorator_list, *_defaults(node.args)]
        case ast.Lambda():
            return _defaults(node.args)
        case ast.If():
            return [node.test, *_branches(node.test, node.body, node.orelse)]
        case ast.IfExp():
            return [node.test, *_branches(node.test, [node.body], [node.orelse])]
        case _:
            return list(ast.iter_child_nodes(node))


def _defaults(arguments: ast.arguments) -> list[ast.AST]:
    return [*arguments.defaults, *filter(None, arguments.kw_defaults)]


def _branches(test: ast.expr, body: Sequence[ast.AST], other: Sequence[ast.AST]) -> list[ast.AST]:
    found = _holds(test)
    return [*(body if found is not False else ()), *(other if found is not True else ())]


def _holds(test: ast.expr) -> bool | None:
    """What an import finds a condition to be; None where `__name__` alone does not say."""
    match test:
        case ast.UnaryOp(op=ast.Not()):
            found = _holds(test.operand)
            return None if found is None else not found
        case ast.BoolOp():
            enough, each = isinstance(test.op, ast.Or), set(map(_holds, test.values))
            return enough if enough in each else None if None in each else not enough
        case ast.Compare(ops=[ast.Eq() | ast.NotEq()]) if _is_of_main(test.left, test.comparators[0]):
            return isinstance(test.ops[0], ast.NotEq)
    return None


def _is_of_main(left: ast.expr, right: ast.expr) -> bool:
    """Whether `__name__` is compared with "__main__", in either order."""
    match left, right:
        case (ast.Name("__name__"), ast.Constant("__main__")) | (ast.Constant("__main__"), ast.Name("__name__")):
            return True
    return False


def _logs(call: ast.Call) -> bool:
    return "log_program" in (getattr(call.func, "id", ""), getattr(call.func, "attr", ""))
