"""The house stays one: few modules at the top, small files, small functions, one home for each concern."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).parents[1] / "src" / "h3"
MODULES = sorted(PACKAGE.rglob("*.py"))


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of the package with the name of its file."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(PACKAGE)}: {node.name}", node


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_few_modules_stand_at_the_top():
    packages = [path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]
    verbs = list(PACKAGE.glob("[!_]*.py"))
    assert len(packages) <= 11 and len(verbs) <= 9


def test_modules_and_functions_are_small():
    assert [str(path) for path in MODULES if len(path.read_text().splitlines()) > 350] == []
    assert [name for name, node in functions() if lines(node) > 40] == []
    assert median(lines(node) for _, node in functions()) <= 8


def test_a_parameter_that_is_a_dictionary_says_what_it_holds():
    bare = [
        f"{name}({argument.arg})"
        for name, node in functions()
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if argument.annotation and ast.unparse(argument.annotation) in ("dict", "list", "dict | None")
    ]
    assert bare == []


def test_locks_and_replaced_files_have_one_home_and_no_one_rewrites_the_command_line():
    """Folders are exchanged in bundle/files.py, files replaced and locked in common/files.py."""
    homes = {
        "os.replace": {"common/files.py", "bundle/files.py"},
        "FileLock": {"common/files.py"},
        "fcntl": set(),
        "sys.argv =": set(),
    }
    for word, home in homes.items():
        assert {str(path.relative_to(PACKAGE)) for path in MODULES if word in path.read_text()} == home
