"""The order of the rooms: a file imports from its own room or from those before it."""

import ast
import graphlib

from tests.conftest import REPO

ROOMS = (
    "errors io log adapt model data evaluate train export runtime study inspect aot experiments"
).split()
FILES = {
    str(file.relative_to(REPO).with_suffix("")).replace("/", ".").removesuffix(".__init__"): file
    for top in ("clipjax", "experiments")
    for file in sorted((REPO / top).rglob("*.py"))
}


def room(name: str) -> str:
    """clipjax.data.open -> data; "" for clipjax itself."""
    return f"{name}.".removeprefix("clipjax.").partition(".")[0]


def imports(file) -> set[str]:
    """Our own files that a file imports, those imported inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in FILES and room(name)}


def test_files_import_from_rooms_to_their_left_and_in_no_circle():
    arrows = {name: imports(file) - {name} for name, file in FILES.items() if room(name)}
    climbing = [
        f"{name} -> {other}"
        for name, others in arrows.items()
        for other in others
        if ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert not climbing
    graphlib.TopologicalSorter(arrows).prepare()  # CycleError names the circle


def test_nothing_else_imports_the_commands():
    for folder in ("clipjax", "benchmarks", "tools"):
        for file in (REPO / folder).rglob("*.py"):
            names = {name for name in imports(file) if room(name) == "experiments"}
            assert not names, (file, names)


def test_methods_need_arrays_alone():
    allowed = {"__future__", "collections", "typing", "jax", "numpy", "optax", "clipjax"}
    for file in (REPO / "clipjax/adapt").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, file
