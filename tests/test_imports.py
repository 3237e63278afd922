"""The modules of the package import one another without cycles, so that any of them can be imported first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import fastfake

ROOT = Path(fastfake.__file__).parent
PACKAGE = ROOT.name
SOURCES = {
    ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def executed(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported: not those of functions or for type checkers."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from executed(statement.orelse)
            continue
        yield statement
        for field in ("body", "orelse", "finalbody"):
            yield from executed(getattr(statement, field, []))


def imports(name: str) -> Iterator[str]:
    """Yield the modules of the package that a module imports when it is imported."""
    is_package = SOURCES[name].name == "__init__.py"
    for statement in executed(ast.parse(SOURCES[name].read_text()).body):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names if alias.name in SOURCES)
        elif isinstance(statement, ast.ImportFrom):
            base = statement.module or ""
            if statement.level:
                above = name.split(".")[: len(name.split(".")) - statement.level + is_package]
                base = ".".join((*above, base) if base else above)
            submodules = {f"{base}.{alias.name}" for alias in statement.names}
            yield from submodules & SOURCES.keys()
            if base in SOURCES and not submodules <= SOURCES.keys() | {f"{PACKAGE}._C"}:
                yield base


def test_no_import_needs_a_module_that_is_being_imported() -> None:
    graph = {name: set(imports(name)) - {name} for name in SOURCES}
    assert "fastfake.fake_tensor" in graph["fastfake.fake_mode"]
    # Raises an error that names the cycle.
    TopologicalSorter(graph).prepare()
