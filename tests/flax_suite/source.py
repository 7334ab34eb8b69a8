# SPDX-License-Identifier: Apache-2.0
"""Which of Flax's tests use batch norm."""

import ast
from collections.abc import Iterator
from pathlib import Path

NAME = "BatchNorm"


def files_with_batch_norm(root: Path) -> list[str]:
    """The files of tests that name it, relative to the root."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.glob("tests/**/*_test.py")
        if NAME in path.read_text()
    )


def choose_tests(code: str) -> set[tuple[str, str]]:
    """The tests in a file that use batch norm: names of class, if any, and function.

    From the text: to find out by running takes longer than the tests themselves. A test
    uses what it names, what is used by what it names at the top of the file, and what
    its class has next to its tests, such as `setUp`. None that uses it is left out; a
    few may be chosen that do not.
    """
    tests, others = [], []
    for node in ast.parse(code).body:
        if isinstance(node, ast.ClassDef):
            tests += [(part, node) for part in node.body if _is_test(part)]
            node.body = [part for part in node.body if not _is_test(part)]
        if _is_test(node):
            tests.append((node, node))
        else:
            others.append(node)
    users: set[str] = set()
    while more := {n for o in others if _uses(o, users) for n in _bound(o)} - users:
        users |= more
    return {
        ("" if owner is test else owner.name, test.name)
        for test, owner in tests
        if _uses(test, users) or _uses(owner, users)
    }


def _is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test")


def _uses(node: ast.AST, users: set[str]) -> bool:
    """Whether batch norm, or a name of something that uses it, is in this code."""
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return NAME in ast.unparse(node) or not names.isdisjoint(users)


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that a statement at the top of a file may define."""
    definition = ast.ClassDef | ast.FunctionDef
    for part in [node] if isinstance(node, definition) else ast.walk(node):
        if isinstance(part, definition):
            yield part.name
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.alias):
            yield part.asname or part.name
