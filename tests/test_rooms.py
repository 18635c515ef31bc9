"""The order of the rooms: a file imports from its own room or from those before it."""

import ast
import functools
import graphlib
import re

from clipjax.commands.cli import COMMANDS
from tests.conftest import REPO

ROOMS = (
    "errors io log adapt model data evaluate train export runtime study inspect aot configs "
    "api commands"
).split()
FILES = {
    str(file.relative_to(REPO).with_suffix("")).replace("/", ".").removesuffix(".__init__"): file
    for file in sorted((REPO / "clipjax").rglob("*.py"))
    if file.stem != "__main__"  # starts a command
} | {
    f"clipjax.{str(file.relative_to(REPO).with_suffix('')).replace('/', '.')}": file
    for file in (REPO / "configs").rglob("[!_]*.py")
}


def room(name: str) -> str:
    """clipjax.data.open -> data; "" for clipjax itself."""
    return f"{name}.".removeprefix("clipjax.").partition(".")[0]


@functools.cache
def imports(file) -> frozenset[str]:
    """Our own files that a file imports, those imported inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(name for name in found if name in FILES and room(name))


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


def drawing() -> tuple[set[str], set[tuple[str, str]]]:
    """The rooms of the drawing in ARCHITECTURE.md, and who its lines lead to from above."""
    text = (REPO / "ARCHITECTURE.md").read_text().split("```")[1]
    rows, at, lines = [row[:25].ljust(25) for row in [*text.splitlines(), ""]], {}, set()
    for y, row in enumerate(rows):
        at |= {(y, x): m[0] for m in re.finditer("[a-z]+", row) for x in range(*m.span())}
    for (y, x), name in at.items():
        below = y + 1
        while (way := "/|\\".find(rows[below][x])) >= 0:
            below, x = below + 1, x + way - 1
        lines |= {(name, at[below, x])} if below > y + 1 else set()
    return set(at.values()), lines


def reached(lines: set[tuple[str, str]]) -> set[tuple[str, str]]:
    further = lines | {(a, d) for a, b in lines for c, d in lines if b == c}
    return lines if further == lines else reached(further)


def test_the_drawing_shows_every_room_and_import():
    drawn, lines = drawing()
    real = {(room(a), room(b)) for a, file in FILES.items() for b in imports(file)}
    above = set(ROOMS[3:])  # errors, io and log serve all of them, without lines
    real = {(a, b) for a, b in real if a != b and {a, b} <= above}
    assert drawn == set(ROOMS)
    assert lines <= real, lines - real  # nothing invented
    assert real <= reached(lines), real - reached(lines)  # nothing left out


def test_the_pages_example_is_the_one_that_the_contract_tests_train():
    page, file = (REPO / name for name in ("ARCHITECTURE.md", "tests/contract/moments.py"))
    lines = lambda text: [line for line in text.splitlines() if line]
    assert lines(file.read_text()) == lines(page.read_text().split("```python")[1].split("```")[0])


def test_nothing_else_imports_the_commands():
    for folder in ("clipjax", "benchmarks", "tools"):
        for file in (REPO / folder).rglob("*.py"):
            if "commands" not in file.parts and file.stem != "__main__":
                names = {name for name in imports(file) if room(name) == "commands"}
                assert not names, (file, names)


def test_the_entries_of_a_checkout_only_start_a_command():
    for file in (REPO / "experiments").glob("[!_]*.py"):
        (start,) = re.findall(r'^    start\("(\w+)"\)$', file.read_text(), re.M)
        assert start in COMMANDS and start == {"main": "run"}.get(file.stem, file.stem)
        assert len(file.read_text().splitlines()) < 8


def test_methods_need_arrays_alone():
    allowed = {
        "__future__",
        "collections",
        "difflib",
        "functools",
        "typing",
        "jax",
        "numpy",
        "optax",
        "clipjax",
    }
    for file in (REPO / "clipjax/adapt").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, file
