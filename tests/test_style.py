"""The code keeps to its sizes: short functions, few arguments, short files, nothing twice.

A function beyond a limit has its reason in a comment on the line above it, which begins with
`# Long:` for its length, docstring included, or `# Wide:` for its arguments.
"""

import ast
import pathlib
from collections import defaultdict

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MODULES = sorted((ROOT / "timeldm_jax").rglob("*.py"))
LINES = 60
ARGUMENTS = 7
FILE_LINES = 450
SAME_LINES = 6


def name_of(path):
    return str(path.relative_to(ROOT))


def functions(path):
    """Each function with the comment above it."""
    text = path.read_text()
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            yield node, lines[first - 2].strip() if first > 1 else ""


def arguments(node):
    listed = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    listed += [each for each in (node.args.vararg, node.args.kwarg) if each is not None]
    return [each.arg for each in listed if each.arg not in ("self", "cls")]


def test_functions_are_short():
    long = {
        f"{name_of(path)}: {node.name}"
        for path in MODULES
        for node, above in functions(path)
        if node.end_lineno - node.lineno + 1 > LINES and not above.startswith("# Long: ")
    }
    assert not long


def test_functions_take_few_arguments():
    wide = {
        f"{name_of(path)}: {node.name}"
        for path in MODULES
        for node, above in functions(path)
        if len(arguments(node)) > ARGUMENTS and not above.startswith("# Wide: ")
    }
    assert not wide


def test_files_are_short():
    long = {name_of(path) for path in MODULES if len(path.read_text().splitlines()) > FILE_LINES}
    assert not long


def test_no_lines_stand_in_two_modules():
    """Imports and the configurations of data sets aside, which are alike by nature."""
    places = defaultdict(set)
    for path in MODULES:
        if path.parent.name == "configs":
            continue
        text = path.read_text()
        imports = {
            number
            for node in ast.parse(text).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for number in range(node.lineno, node.end_lineno + 1)
        }
        lines = [
            line.strip()
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and number not in imports
        ]
        for i in range(len(lines) - SAME_LINES + 1):
            places["\n".join(lines[i : i + SAME_LINES])].add(name_of(path))
    twice = {lines: sorted(names) for lines, names in places.items() if len(names) > 1}
    assert not twice


@pytest.mark.parametrize("name", ["utils", "util", "helpers", "common", "misc"])
def test_modules_are_named_for_what_they_do(name):
    assert not [name_of(path) for path in MODULES if name in (path.stem, path.parent.name)]
