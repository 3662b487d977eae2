"""The house rules that a tool can check: arrows, sizes, no Python in csrc/, true stubs."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A room may import rooms of a lower number, and its own.
FLOORS = {
    "lazarus.cli": 5,
    "lazarus.fsspec": 5,
    "lazarus.store": 4,
    "lazarus.images": 3,
    "lazarus.containers": 3,
    "lazarus.volumes": 3,
    "lazarus.content": 2,
    "lazarus.layers": 2,
    "lazarus.mounts": 2,
    "lazarus.oci": 2,
    "lazarus.registry": 2,
    "lazarus.runtime": 2,
    "lazarus.union": 2,
    "lazarus.chunks": 2,
    "lazarus._native": 1,
    "lazarus.terms": 0,
    "lazarus.whole_file": 0,
    "lazarus.whole_directory": 2,
    "lazarus.errors": 0,
}
# Neighbours that may know one another; everything else on one floor may not.
NEIGHBOURS = {
    ("lazarus.containers", "lazarus.images"),
    ("lazarus.containers", "lazarus.volumes"),
    ("lazarus.layers", "lazarus.content"),
    ("lazarus.registry", "lazarus.oci"),
    ("lazarus.union", "lazarus.layers"),
    ("lazarus.terms", "lazarus.errors"),
    ("lazarus.whole_file", "lazarus.errors"),
}


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _imports(path: Path) -> set[str]:
    """Modules of this project that a file imports when it runs (imports for type checkers only do not count)."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "lazarus" else {node.module}
            )
    return {name for name in found if name.startswith("lazarus.")}


def test_what_a_full_disk_answers_stands_once() -> None:
    """Who asks for one of these alone means that one; who means a full disk asks for `errors.FULL`."""
    naming = [
        str(path.relative_to(ROOT))
        for path in ROOT.glob("lazarus/**/*.py")
        if any(
            isinstance(node, ast.Attribute) and node.attr == "EDQUOT" for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert naming == ["lazarus/errors.py"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("lazarus/**/*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    room = _room(module)
    if room not in FLOORS:
        return  # lazarus/__init__.py and __main__.py: the doors of the house
    for imported in _imports(path):
        other = _room(imported)
        if other == room or other not in FLOORS:
            continue
        allowed = FLOORS[other] < FLOORS[room] or (room, other) in NEIGHBOURS
        assert allowed, f"{module} imports {imported}: an arrow that points up or sideways"


def test_csrc_is_free_of_python() -> None:
    for path in ROOT.glob("csrc/*/*.[ch]"):
        assert "Python.h" not in path.read_text(), path


def test_csrc_floors() -> None:
    """bytes/ includes nothing of tree/; base/ nothing of either."""
    order = {"base": 0, "bytes": 1, "tree": 2, "serve": 3}
    for path in ROOT.glob("csrc/*/*.[ch]"):
        for included in re.findall(r'#include "\.\./(\w+)/', path.read_text()):
            assert order[included] < order[path.parent.name], f"{path.name} includes ../{included}/"


@pytest.mark.parametrize(
    ("pattern", "lines"),
    [("csrc/*/*.c", 500), ("lazarus/**/*.pyx", 200), ("lazarus/**/*.py", 400), ("benchmarks/**/*.py", 400)],
)
def test_files_can_be_held_in_the_head(pattern: str, lines: int) -> None:
    for path in ROOT.glob(pattern):
        count = len(path.read_text().splitlines())
        assert count <= lines, f"{path.relative_to(ROOT)}: {count} lines; what second room is in it?"


def test_no_new_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=]", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"numpy", "xxhash", "rich", "shtab", "urllib3"}


@pytest.mark.parametrize("stub", sorted(ROOT.glob("lazarus/_native/*.pyi")), ids=lambda path: path.stem)
def test_stub_says_what_the_module_has(stub: Path) -> None:
    import importlib

    module = importlib.import_module(f"lazarus._native.{stub.stem}")
    stated = {
        node.name: node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and (callable(value) or inspect.isclass(value))
    }
    assert public == {name for name in stated if not name.startswith("_")}
    for name, node in stated.items():
        if isinstance(node, ast.FunctionDef) and hasattr(module, name):
            signature = inspect.signature(getattr(module, name))
            arguments = [a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
            assert list(signature.parameters) == arguments, name
