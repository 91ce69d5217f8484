"""Imports only descend: each floor of the house uses what lies below it and nothing above."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]

FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "__init__ errors names logs tasks timings allocator workers network_errors gguf standins",
        "config metrics chat",
        "tokenizing sources ollama",
        "planning store",
        "transfer server",
        "forward",
        "pull",
        "backend",
        "inspection on_demand",
        "admin",
        "app",
        "commands",
        "cli",
        "__main__",
    )
)
"""From the ground up. Packages of one floor do not know each other."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "proxy").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts), path


def imported(path: Path, known: set[str]) -> Iterator[str]:
    """The modules of the project that a file imports, also inside of its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "proxy":
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole in known else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "proxy")


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_every_room_has_a_floor_and_only_one() -> None:
    listed = [name for floor in FLOORS for name in floor]
    assert sorted(listed) == sorted({room(module) for module, _ in modules()})


def test_rooms_import_only_from_floors_below() -> None:
    floor_of = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    known = {module for module, _ in modules()}
    upwards = [
        f"{module} imports {other}"
        for module, path in modules()
        for other in imported(path, known)
        if room(other) != room(module) and floor_of[room(other)] >= floor_of[room(module)]
    ]
    assert upwards == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = {module for module, _ in modules()}
    graph = {module: {other for other in imported(path, known) if other != module} for module, path in modules()}
    assert list(TopologicalSorter(graph).static_order())


def test_modules_are_short_enough_to_read_at_once() -> None:
    paths = [path for folder in ("proxy", "tests") for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in paths}
    assert {path: length for path, length in lengths.items() if length > 500} == {}
