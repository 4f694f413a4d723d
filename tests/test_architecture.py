"""What docs/architecture.md says of the package: its rooms are all there are, and every name on the page exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from pydoc import locate

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "icmoe_monai"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
LEVELS = {
    room: int(level)
    for level, rooms in re.findall(r"^\| (\d) \| (.*?) \|", PAGE, flags=re.MULTILINE)
    for room in re.findall(r"`(\w+)`", rooms)
}
ROWS = [re.findall(r"[^|]+", line) for line in PAGE.splitlines() if re.match(r"\| \d \|", line)]
# settings, and what is written or lies in every room
FREE = {"cache_features", "experts", "written", "report.json", "report.csv", "__init__.py"}


def test_the_table_has_every_room_and_no_other():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert set(LEVELS) == rooms - {"__init__", "__pycache__"}


def test_a_room_may_import_all_levels_below_its_own():
    for row in ROWS:
        level, words = int(row[0]), row[-1].strip()
        below = {1: "nothing", 2: "level 1", 3: "levels 1 and 2"}
        assert words == below.get(level, f"levels 1 to {level - 1}"), row


@pytest.mark.parametrize("room", sorted(room for room, level in LEVELS.items() if level < 7))
def test_a_room_imports_lower_levels_only(room):
    folder = PACKAGE / room
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]:
        for imported in rooms_imported(path) - {room}:
            assert LEVELS[imported] < LEVELS[room], (path.relative_to(ROOT), imported)


def rooms_imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[1] for name in modules if name.startswith("icmoe_monai.")}


def test_every_name_of_the_page_exists():
    assert [name for name in sorted(set(re.findall(r"`([^`]+)`", PAGE)) - FREE) if not exists(name)] == []


def exists(name: str) -> bool:
    """Look up a command, a path with perhaps a test in it, or a name of the package."""
    program, _, word = name.rpartition(" ")
    if program == "make":
        return re.search(rf"^{re.escape(word)}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE) is not None
    if program:
        return program.startswith("python -m ") and locate(program.split()[2]) is not None
    if "/" in name:
        path, _, test = name.partition("::")
        return (ROOT / path).exists() and (not test or f"def {test}(" in (ROOT / path).read_text())
    return locate(f"icmoe_monai.{name.removeprefix('icmoe_monai.')}") is not None
