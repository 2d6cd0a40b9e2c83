"""Source of medae that is copied out of the house: modules and all that they import, to run without medae.

Nothing is rewritten but the first words of import statements, which become relative. Modules that would need much (DICOM,
ITK, YAML) stay at home: what is imported from them comes from `medae.export.bundled.absent`, and what is imported from
pydantic and `medae.config` from `medae.export.bundled.frozen`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import medae

HOUSE = "medae"
ABSENT = "medae.export.bundled.absent"
FROZEN = "medae.export.bundled.frozen"
REPLACED = {"pydantic": FROZEN, "medae.config": FROZEN}
AT_HOME = ("medae.commented", "medae.data", "medae.formats.dicom", "medae.formats.itk")
"""Packages and modules that are not carried: they read DICOM and other formats, data sets and YAML."""


@dataclass(frozen=True)
class Carried:
    """files: text by path within the package that they become. needs: packages that they import as they are loaded."""

    files: dict[str, str]
    needs: frozenset[str]


def carry(roots: Collection[str], at_home: Collection[str] = ()) -> Carried:
    """Modules by their full names, all that they import of medae, and the packages that they lie in.

    at_home: further modules that stay at home.
    """
    files: dict[str, str] = {}
    needs: set[str] = set()
    waiting, seen = [HOUSE, *roots], set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        path, is_package = _place(module)
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(Path(str(medae.__file__)).parent).as_posix()
        tree = ast.parse(text)
        lines = text.splitlines(keepends=True)
        for node in _imports(tree):
            target = _target(str(node.module), (*AT_HOME, *at_home))
            if target is not None:
                lines[node.lineno - 1] = _made_relative(lines[node.lineno - 1], node, target, module, is_package)
                waiting += [target, *_modules_in(target, node), *_packages_of(target)]
        needs |= _outside(tree)
        files[name] = f"# Copied from medae {medae.__version__}, medae/{name}; imports were made relative.\n{''.join(lines)}"
    return Carried(files, frozenset(needs))


def _place(module: str) -> tuple[Path, bool]:
    """The file of a module, and whether it is a package."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None  # it has been imported from
    return Path(spec.origin), spec.submodule_search_locations is not None


def _imports(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    """Every ``from … import …``, but those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom):
            yield node
        elif not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield from _imports(node)


def _target(module: str, at_home: Collection[str]) -> str | None:
    """What is imported in the place of a module; None for one that is not of medae."""
    if module in REPLACED:
        return REPLACED[module]
    if any(module == each or module.startswith(f"{each}.") for each in at_home):
        return ABSENT
    return module if module == HOUSE or module.startswith(f"{HOUSE}.") else None


def _made_relative(line: str, node: ast.ImportFrom, target: str, module: str, is_package: bool) -> str:
    depth = module.count(".") + is_package
    relative = "." * max(depth, 1) + target.removeprefix(HOUSE).removeprefix(".")
    return re.sub(rf"\bfrom {re.escape(str(node.module))} import\b", f"from {relative} import", line)


def _modules_in(target: str, node: ast.ImportFrom) -> list[str]:
    """The imported names that are modules of a package."""
    if not _place(target)[1]:
        return []
    names = [f"{target}.{alias.name}" for alias in node.names]
    return [name for name in names if find_spec(name) is not None]


def _packages_of(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _outside(tree: ast.Module) -> set[str]:
    """Packages that are imported at the top of a module and are neither of Python, nor medae, nor replaced."""
    found = {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    packages = {name.split(".")[0] for name in found}
    return {name for name in packages if name not in {HOUSE, *REPLACED, *sys.stdlib_module_names}}
